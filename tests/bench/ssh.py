"""SSH through the gateway, beside ``ssh -J`` through an sshd, a ForceCommand bastion and nothing.

CPU time is that of the door alone. Recording is on.
"""

from __future__ import annotations

import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from attrs import frozen

from tests.bench.measure import Table, costing, resident, rounds
from tests.real.ssh_clients import Person
from tests.real.ssh_servers import SshGateway, SshServer, keygen, unix_user

BULK = 512  # MiB a transfer
DIRECT, JUMP = "direct", "ssh -J"


@frozen
class Way:
    """How one gets to the target: the command line before the remote command."""

    name: str
    command: tuple[str, ...]
    pid: int | None

    @property
    def pids(self) -> tuple[int, ...]:
        return () if self.pid is None else (self.pid,)

    def run(self, remote: str, **over: object) -> None:
        subprocess.run([*self.command, remote], check=True, timeout=300, **over)  # type: ignore[call-overload]


def run(seconds: int, count: int, sessions: int) -> Iterator[Table]:
    """The tables, as they get done."""
    with ways() as every:
        yield from _bulk(every, count)
        yield from _echo(every, seconds, count)
        yield from _logins(every, seconds, count)
        yield _memory(every, min(sessions, 200))


@contextmanager
def ways() -> Iterator[list[Way]]:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gwbench")))
        directory.chmod(0o755)
        user = stack.enter_context(unix_user(directory))
        key = keygen(directory / "alice")
        target, jump = (_sshd(stack, directory / name, key) for name in ("target", "jump"))
        plain = (
            "ssh", "-F", "/dev/null", "-i", str(directory / "alice"), "-o", "LogLevel=ERROR",
            "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
            "-o", "IdentitiesOnly=yes",
        )  # fmt: skip
        there = f"{user.name}@127.0.0.1"
        hop = " ".join((*plain, "-p", str(jump.port), "-W", "%h:%p", there))
        forced = " ".join((*plain, "-p", str(target.port), there, "$SSH_ORIGINAL_COMMAND"))
        bastion = _sshd(stack, directory / "bastion", key, ForceCommand=forced)
        _lend(directory / "alice", user.name)
        to = (*plain, "-p")
        yield [
            Way(DIRECT, (*to, str(target.port), there), None),
            Way(
                JUMP,
                (*plain, "-o", f"ProxyCommand={hop}", "-p", str(target.port), there),
                _pid(jump),
            ),
            Way("bastion", (*to, str(bastion.port), there), _pid(bastion)),
            _gateway(stack, directory, target, key, user.name),
        ]


def _sshd(stack: ExitStack, directory: Path, key: str, **settings: str) -> SshServer:
    server = SshServer(directory, **settings).create()
    stack.callback(server.stop)
    server.authorized.write_text(key + "\n")
    return server


def _pid(server: SshServer) -> int:
    assert server._process is not None
    return server._process.pid


def _lend(key: Path, user: str) -> None:
    """The bastion's command runs as *user*, and has to read the key."""
    subprocess.run(["chown", user, str(key)], check=True)


def _gateway(stack: ExitStack, directory: Path, target: SshServer, key: str, account: str) -> Way:
    objects = f"""\
resources:
  - name: web
    protocol: ssh
    targets: [{{address: "127.0.0.1:{target.port}", host_key: "{target.host_key}"}}]
    accounts: [{{name: {account}, certificate: {{}}}}]
users: [{{name: alice, ssh_keys: ["{key}"]}}]
roles: [{{name: all, allow: [{{resources: {{}}, accounts: [{account}]}}]}}]
bindings: [{{name: all, role: all, subjects: [user:alice]}}]
"""
    limits = "limits: {sessions_per_user: 1000, unauthenticated_per_address: 1000}\n"
    gateway = SshGateway(directory / "gateway", objects, limits).started(target)
    stack.callback(gateway.stop)
    person = Person(directory / "person", directory / "alice", gateway).set_up()
    return Way("gateway", tuple(person.command("ssh", "alice#web@127.0.0.1")), gateway.pid)


def _all(every: Sequence[Way], count: int, measure: Callable[[Way], None]) -> None:
    rounds(count, [partial(measure, way) for way in every])


def _bulk(every: Sequence[Way], count: int) -> Iterator[Table]:
    size = BULK << 20
    transfers: Mapping[str, Callable[[Way], None]] = {
        "download through exec": lambda way: way.run(
            f"head -c {size} /dev/zero", stdout=subprocess.DEVNULL
        ),
        "upload through exec": lambda way: _upload(way, size),
        "download through sftp": lambda way: _sftp(way, "get {0} /dev/null"),
        "upload through sftp": lambda way: _sftp(way, "put {0} /dev/null"),
    }
    for name, transfer in transfers.items():
        speed = Table(f"{name}: speed", "MB/s", JUMP)
        cpu = Table(f"{name}: CPU", "s a GB", JUMP, digits=2)

        def measure(
            way: Way,
            transfer: Callable[[Way], None] = transfer,
            speed: Table = speed,
            cpu: Table = cpu,
        ) -> None:
            with costing(way.pids) as cost:
                transfer(way)
            speed.add(way.name, size / cost.wall / 1e6)
            if way.pids:
                cpu.add(way.name, cost.cpu / size * 1e9)

        _all(every, count, measure)
        yield speed
        yield cpu


def _upload(way: Way, size: int) -> None:
    with subprocess.Popen(["head", "-c", str(size), "/dev/zero"], stdout=subprocess.PIPE) as source:
        way.run("cat > /dev/null", stdin=source.stdout)


def _sftp(way: Way, command: str) -> None:
    """``{0}`` in *command* is a file of zeros, that takes no room."""
    options = ("-P" if part == "-p" else part for part in way.command[1:-1])
    with tempfile.NamedTemporaryFile() as zeros:
        zeros.truncate(BULK << 20)
        Path(zeros.name).chmod(0o644)
        subprocess.run(
            ["sftp", "-q", *options, "-b", "-", way.command[-1]],
            input=command.format(zeros.name).encode(),
            stdout=subprocess.DEVNULL,
            check=True,
            timeout=300,
        )


def _echo(every: Sequence[Way], seconds: int, count: int) -> Iterator[Table]:
    median = Table("echo of a key: half are faster", "ms", JUMP, digits=3)
    worst = Table("echo of a key: 99 of 100 are faster", "ms", JUMP, digits=3)

    def measure(way: Way) -> None:
        times = sorted(_echoes(way, seconds))
        median.add(way.name, statistics.median(times) * 1e3)
        worst.add(way.name, times[len(times) * 99 // 100] * 1e3)

    _all(every, count, measure)
    yield median
    yield worst


def _echoes(way: Way, seconds: int) -> Iterator[float]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "bufsize": 0}
    with subprocess.Popen([*way.command, "cat"], **pipes) as process:  # type: ignore[call-overload]
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"x")
        process.stdout.read(1)  # it is up
        until = time.monotonic() + seconds
        while (began := time.monotonic()) < until:
            process.stdin.write(b"x")
            process.stdout.read(1)
            yield time.monotonic() - began
        process.stdin.close()


def _logins(every: Sequence[Way], seconds: int, count: int) -> Iterator[Table]:
    wall = Table("log-in and a command", "ms", DIRECT)
    cpu = Table("log-in and a command: CPU", "ms", JUMP)

    def measure(way: Way) -> None:
        done = 0
        with costing(way.pids) as cost:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                way.run("true")
                done += 1
        wall.add(way.name, cost.wall / done * 1e3)
        if way.pids:
            cpu.add(way.name, cost.cpu / done * 1e3)

    _all(every, count, measure)
    yield wall
    yield cpu


def _memory(every: Sequence[Way], sessions: int) -> Table:
    """The gateway's alone: sshd takes a process for each."""
    table = Table(f"memory of an idle session, {sessions} of them", "KiB", "gateway")
    way = every[-1]
    assert way.pid is not None
    before = resident(way.pid)
    with ExitStack() as stack:
        for _ in range(sessions):
            held = stack.enter_context(
                subprocess.Popen(
                    [*way.command, "echo up; cat"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
            )
            assert held.stdout is not None
            held.stdout.readline()
            stack.callback(held.kill)
        table.add(way.name, (resident(way.pid) - before) / sessions / 1024)
    return table
