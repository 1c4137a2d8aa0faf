"""``gateway demo`` as a process, as its users start it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from tests.real.servers import PATIENCE, until
from tests.support import over

GATEWAY = Path(sys.executable).with_name("gateway")
LAST = "Ctrl-C stops everything."

# Another user who may still read this interpreter, which often lies in root's home.
AS_NOBODY = (
    "setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups",
    "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search",
)  # fmt: skip


class Demo:
    """Started at once; all that it says goes to the file *output*.

    *before*: a command that runs it; *terminal*: its standard input.
    """

    def __init__(
        self,
        output: Path,
        *arguments: str,
        before: Sequence[str] = (),
        terminal: int = subprocess.DEVNULL,
        **environment: str,
    ) -> None:
        self.output = output
        self.children: list[psutil.Process] = []
        with output.open("wb") as out:
            self.process = subprocess.Popen(
                [*before, str(GATEWAY), "demo", *arguments],
                stdin=terminal,
                stdout=out,
                stderr=out,
                env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environment},
                cwd="/",
            )

    @property
    def text(self) -> str:
        return self.output.read_text()

    def said(self, words: str) -> None:
        """Wait for *words*."""
        until(lambda: words in self.text or self.process.poll() is not None, words, 2 * PATIENCE)
        assert words in self.text, self.text
        self.children = psutil.Process(self.process.pid).children(recursive=True)

    def serving(self) -> Demo:
        self.said(LAST)
        return self

    @property
    def servers(self) -> list[psutil.Process]:
        """What it has started itself; below these, backends come and go."""
        return psutil.Process(self.process.pid).children()

    def line(self, start: str) -> str:
        """The line to paste that has *start* in it."""
        return next(
            line.strip() for line in self.text.splitlines() if start in line and line[:2] == "  "
        )

    def password(self, person: str) -> str:
        return (self.path / "secrets" / person).read_text().strip()

    @property
    def path(self) -> Path:
        found = re.search(r"^Gateway serves a demo in (.+)$", self.text, re.MULTILINE)
        assert found, self.text
        return Path(found[1])

    def stop(self, number: int = signal.SIGINT) -> int:
        """Its exit code; fails if any process of it is left."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        _, alive = psutil.wait_procs(self.children, PATIENCE if number == signal.SIGKILL else 1)
        assert not [process for process in alive if not over(process.pid)]
        return code


def shell(
    line: str, text: str = "", cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run *line* as if it had been pasted; *text*: what is typed then."""
    return subprocess.run(
        ["/bin/sh", "-c", line],
        input=text,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        cwd=cwd,
        env={**os.environ, **environment},
    )


def answering(password: str, place: Path) -> dict[str, str]:
    """An environment in which ssh's question for a password is answered."""
    program = place / f"askpass-{password}"
    program.write_text(f"#!/bin/sh\necho {password}\n")
    program.chmod(0o700)
    return {"SSH_ASKPASS": str(program), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": "none"}


def query(line: str, sql: str) -> str:
    """What a printed psql line answers to *sql*."""
    done = shell(f"{line} -XAtc '{sql}'")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
