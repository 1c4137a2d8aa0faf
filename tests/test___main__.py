"""``python -m gateway`` is the ``gateway`` command."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from gateway import __version__

SCRIPT = shutil.which("gateway", path=str(Path(sys.executable).parent))


def test_both_are_the_same_command() -> None:
    assert SCRIPT is not None, "the package is installed with its script"
    for command in ([sys.executable, "-m", "gateway"], [SCRIPT]):
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
        assert done.stdout == f"gateway, version {__version__}\n"
        wrong = subprocess.run([*command, "frob"], capture_output=True, text=True, check=False)
        assert (wrong.returncode, wrong.stdout) == (2, "")
        assert wrong.stderr == "gateway: No such command 'frob'. (gateway --help tells more)\n"
