"""Drivers of other languages: where they lie, and how their flows are run."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.real.servers import GatewayProcess

HERE = Path(__file__).parent
JDBC = Path("/usr/share/java/postgresql.jar")
NODE_PG = HERE.parent / "node_modules" / "pg"


def node(gateway: GatewayProcess, **over: str) -> dict[str, Any]:
    """What ``flow.js`` found, going through *gateway* as bob."""
    return _run(gateway, ["node", str(HERE / "flow.js")], over)


def java(gateway: GatewayProcess, **over: str) -> dict[str, Any]:
    """What ``Flow.java`` found; the launcher compiles it in memory."""
    # One run is over before optimising it would pay.
    quick = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto"]
    return _run(gateway, ["java", *quick, "-cp", str(JDBC), str(HERE / "Flow.java")], over)


def _run(gateway: GatewayProcess, command: list[str], over: dict[str, str]) -> dict[str, Any]:
    settings = {
        "PORT": str(gateway.port),
        "CA": str(gateway.ca),
        "WHO": "bob/app_rw#orders",
        "PASSWORD": "bob's password",
        "DATABASE": "orders",
        **over,
    }
    done = subprocess.run(
        command,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **settings},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
