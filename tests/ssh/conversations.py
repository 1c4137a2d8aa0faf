"""What real programs say to one another, recorded in the order in which they could know of it."""

from __future__ import annotations

import itertools
import shlex
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from gateway.ssh.files import Event, Watch

CLIENT, TARGET = 0, 1
Speech = list[tuple[int, bytes]]

SFTP_SERVER = "/usr/lib/openssh/sftp-server"

# Stands between a client and a server: writes down, then passes on.
TEE = """
import os, subprocess, sys, threading

log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
server = subprocess.Popen(sys.argv[2:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
lock = threading.Lock()


def carry(side, source, sink):
    while data := os.read(source, 65536):
        with lock:
            os.write(log, bytes([side]) + len(data).to_bytes(4, "big") + data)
        while data:
            data = data[os.write(sink, data) :]
    os.close(sink)


upward = threading.Thread(target=carry, args=(0, 0, server.stdin.fileno()), daemon=True)
upward.start()
carry(1, server.stdout.fileno(), 1)
os._exit(server.wait())
"""


class Tee:
    """A program that runs another, in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self._log = directory / "log"
        self._command = directory / "command"
        self.program = directory / "tee"
        script = directory / "tee.py"
        script.write_text(TEE)
        run = shlex.join([sys.executable, "-I", "-S", str(script), str(self._log)])
        self.program.write_text(
            "#!/bin/sh\n"
            f"[ $# = 1 ] && exec {run} $1\n"  # of sftp -D
            "for last; do :; done\n"  # of scp -S, which takes it for ssh
            f'printf %s "$last" >{self._command}\n'
            f'exec {run} /bin/sh -c "$last"\n'
        )
        self.program.chmod(0o700)

    def heard(self) -> Speech:
        """Everything since the last time."""
        data = self._log.read_bytes() if self._log.exists() else b""
        self._log.unlink(missing_ok=True)
        speech, pos = [], 0
        while pos < len(data):
            side, length = struct.unpack_from(">BI", data, pos)
            pos += 5 + length
            speech.append((side, data[pos - length : pos]))
        return speech

    def command(self) -> bytes:
        """What scp asked ssh to run."""
        return self._command.read_bytes()


def sftp(tee: Tee, directory: Path, batch: bytes) -> Speech:
    script = tee.program.with_name("batch")
    script.write_bytes(batch)
    command = f"{tee.program} {SFTP_SERVER}"
    run(["sftp", "-q", "-b", str(script), "-D", command], directory)
    return tee.heard()


def scp(tee: Tee, directory: Path, *args: str, status: int = 0) -> tuple[bytes, Speech]:
    """The command that ran on the target, and what was said."""
    run(["scp", "-q", "-O", "-S", str(tee.program), *args], directory, status)
    return tee.command(), tee.heard()


def run(command: list[str], directory: Path, status: int = 0) -> None:
    done = subprocess.run(command, cwd=directory, capture_output=True, timeout=60)
    assert done.returncode == status, done.stderr.decode()


def joined(speech: Iterable[tuple[int, bytes]]) -> Speech:
    """As if nothing had ever been split."""
    turns = itertools.groupby(speech, key=lambda turn: turn[0])
    return [(side, b"".join(data for _, data in turn)) for side, turn in turns]


def cut(speech: Speech, sizes: list[int]) -> Iterator[tuple[int, bytes]]:
    """Into chunks of *sizes*, over and over."""
    size = itertools.cycle(sizes)
    for side, data in speech:
        pos = 0
        while pos < len(data):
            end = pos + next(size)
            yield side, data[pos:end]
            pos = end


def show(watch: Watch, speech: Iterable[tuple[int, bytes]]) -> None:
    for side, data in speech:
        (watch.from_client if side == CLIENT else watch.from_target)(data)


def watched(watch: Watch, events: list[Event], speech: Iterable[tuple[int, bytes]]) -> list[Event]:
    """All that *watch* emits to *events*, to the end."""
    show(watch, speech)
    watch.close()
    return events
