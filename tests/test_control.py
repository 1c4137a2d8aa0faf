"""The control socket: who is let in, what is said on it, and two daemons on one directory."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import asdict, define, field

from gateway import control
from gateway.control import (
    BAD_CONFIGURATION,
    FAILED,
    MAX_LINE,
    UNREACHABLE,
    CommandFailed,
    Control,
    call,
    caller,
)
from gateway.errors import BadFile, GatewayError, NotRecorded, Problem
from tests.leaks import nothing_left
from tests.support import asyncio_test

PATIENCE = 30.0  # seconds; nothing here takes a tenth of them
NOBODY = 65534
MISTAKE = Problem("objects.yaml", 3, 7, "users.0", "needs a name")


@define
class Daemon:
    """A control socket and some commands."""

    path: Path
    control: Control
    began: asyncio.Event = field(factory=asyncio.Event)
    go_on: asyncio.Event = field(factory=asyncio.Event)
    finished: int = 0

    def table(self) -> dict[str, Any]:
        return {
            "echo": self.echo,
            "who": self.who,
            "wait": self.wait,
            "bad": self.bad,
            "fail": self.fail,
            "full": self.full,
            "unspeakable": self.unspeakable,
        }

    async def echo(self, arguments: Mapping[str, Any]) -> Any:
        return {name: value for name, value in arguments.items() if name != "by"}

    async def who(self, arguments: Mapping[str, Any]) -> Any:
        return arguments["by"]

    async def wait(self, arguments: Mapping[str, Any]) -> str:
        self.began.set()
        await self.go_on.wait()
        self.finished += 1
        return "x" * arguments.get("much", 1)

    async def bad(self, arguments: Mapping[str, Any]) -> None:
        raise BadFile((MISTAKE,))

    async def fail(self, arguments: Mapping[str, Any]) -> None:
        raise KeyError("name")

    async def full(self, arguments: Mapping[str, Any]) -> None:
        raise NotRecorded("disk full")

    async def unspeakable(self, arguments: Mapping[str, Any]) -> object:
        return {"answer": object()}

    async def ask(self, command: str, **arguments: Any) -> Any:
        return await asyncio.to_thread(call, self.path, command, **arguments)

    async def say(self, *lines: bytes, end: bool = True) -> list[Any]:
        """What is answered to bytes that no command line of ours would send."""
        reader, writer = await asyncio.open_unix_connection(self.path, limit=MAX_LINE)
        writer.writelines(lines)
        if end:
            writer.write_eof()
        answers = [json.loads(line) async for line in reader]
        writer.close()
        return answers


@pytest.fixture
def path() -> Iterator[Path]:
    """In a directory whose name leaves room: a socket's path has 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="gw") as name:
        yield Path(name, "control.sock")


@asynccontextmanager
async def daemon(path: Path, *, broken: bool = False) -> AsyncIterator[Daemon]:
    async with nothing_left(broken=broken), asyncio.timeout(PATIENCE):
        running = Daemon(path, Control(path))
        running.control.claim()
        await running.control.start(running.table())
        try:
            yield running
        finally:
            await running.control.close()


def error(answer: Any) -> tuple[int, str]:
    assert answer.keys() == {"error"}
    return answer["error"]["code"], answer["error"]["message"]


# -- commands ------------------------------------------------------------------------------


@asyncio_test
async def test_a_command_and_its_result(path: Path) -> None:
    async with daemon(path) as here:
        given = {"text": "käse\n\0\udcff" * 1000, "number": 1.5, "none": None, "list": [{}]}
        assert await here.ask("echo", **given) == given
        assert await here.ask("echo") == {}


@asyncio_test
async def test_several_requests_on_one_connection_are_answered_in_turn(path: Path) -> None:
    async with daemon(path) as here:
        requests = [_request("echo", n=1), _request("bad"), _request("echo", n=2)]
        whole = await here.say(b"".join(requests))
        assert [answer.get("result") for answer in whole] == [{"n": 1}, None, {"n": 2}]
        assert await here.say(*(bytes((byte,)) for byte in b"".join(requests))) == whole


def _request(command: str, **arguments: Any) -> bytes:
    return json.dumps({"command": command, "arguments": arguments}).encode() + b"\n"


@asyncio_test
async def test_one_that_waits_holds_nobody_up(path: Path) -> None:
    async with daemon(path) as here:
        waiting = asyncio.ensure_future(here.ask("wait", much=1_000_000))
        await here.began.wait()
        assert await here.ask("echo", n=1) == {"n": 1}
        here.go_on.set()
        assert await waiting == "x" * 1_000_000


@asyncio_test
async def test_mistakes_in_a_file_come_with_their_positions(path: Path) -> None:
    async with daemon(path) as here:
        with pytest.raises(CommandFailed) as failed:
            await here.ask("bad")
        assert (failed.value.code, failed.value.problems) == (BAD_CONFIGURATION, (MISTAKE,))
        [answer] = await here.say(_request("bad"))
        assert answer["error"]["problems"] == [asdict(MISTAKE)]


@asyncio_test
async def test_what_fails_on_purpose_says_why_and_is_no_news_to_the_log(path: Path) -> None:
    async with daemon(path) as here:
        with pytest.raises(CommandFailed, match="disk full") as failed:
            await here.ask("full")
        assert (failed.value.code, failed.value.problems) == (FAILED, ())


@pytest.mark.parametrize("command", ["fail", "unspeakable"])
@asyncio_test
async def test_what_fails_by_mistake_goes_to_the_log(command: str, path: Path) -> None:
    async with daemon(path, broken=True) as here:
        with pytest.raises(CommandFailed, match="internal error") as failed:
            await here.ask(command)
        assert failed.value.code == FAILED
        assert await here.ask("echo", n=1) == {"n": 1}


@asyncio_test
async def test_an_unknown_command_is_named(path: Path) -> None:
    async with daemon(path) as here:
        with pytest.raises(CommandFailed) as failed:
            await here.ask("dance" * 100)
        assert failed.value.code == FAILED
        assert "no command 'dancedance" in str(failed.value)
        assert len(str(failed.value)) < 100


MALFORMED = {
    "empty": b"",
    "no JSON": b"apply",
    "no UTF-8": b'{"command": "\xff"}',
    "cut short": _request("echo")[:-5],
    "another shape": b'["echo", {}]',
    "no command": b'{"arguments": {}}',
    "no arguments": b'{"command": "echo"}',
    "command of a wrong type": b'{"command": ["echo"], "arguments": {}}',
    "arguments of a wrong type": b'{"command": "echo", "arguments": []}',
    "too deep": b"[" * 200_000,
    "a number without end": b"1" * 10_000,
}


@pytest.mark.parametrize("line", MALFORMED.values(), ids=MALFORMED.keys())
@asyncio_test
async def test_a_malformed_request_is_told_so_and_harms_nobody(line: bytes, path: Path) -> None:
    async with daemon(path) as here:
        malformed, answered = await here.say(line + b"\n", _request("echo", n=1))
        assert error(malformed) == (
            FAILED,
            "not a request: an object with a command and its arguments",
        )
        assert answered == {"result": {"n": 1}}


@asyncio_test
async def test_a_request_that_is_cut_short_is_not_run(path: Path) -> None:
    async with daemon(path) as here:
        here.go_on.set()
        request = _request("wait")
        for length in range(len(request) - 1):
            await here.say(request[:length])
        assert here.finished == 0


@asyncio_test
async def test_a_line_without_end_is_not_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MAX_LINE", 1000)
    async with daemon(path) as here:
        with pytest.raises(CommandFailed, match="cannot be sent at once") as failed:
            await here.ask("echo", text="x" * 1000)
        assert failed.value.code == FAILED
        assert await here.ask("echo", text="x" * 900) == {"text": "x" * 900}
        assert await here.say(b"x" * 5000, end=False) == []


# -- clients that go away ------------------------------------------------------------------


@asyncio_test
async def test_a_client_that_says_nothing(path: Path) -> None:
    async with daemon(path) as here:
        assert await here.say() == []


@asyncio_test
async def test_a_client_that_goes_while_its_command_runs(path: Path) -> None:
    async with daemon(path) as here:
        with socket.socket(socket.AF_UNIX) as impatient:
            impatient.connect(str(path))
            impatient.send(_request("wait", much=1_000_000) + _request("wait"))
            await here.began.wait()
        here.go_on.set()
        assert await here.ask("echo", n=1) == {"n": 1}


@asyncio_test
async def test_a_client_that_does_not_listen_is_not_answered_further(path: Path) -> None:
    async with daemon(path) as here:
        here.go_on.set()
        with socket.socket(socket.AF_UNIX) as deaf:
            deaf.connect(str(path))
            deaf.send(_request("wait", much=1_000_000) * 20)
            await here.began.wait()
            assert await here.ask("echo", n=1) == {"n": 1}
            assert here.finished < 20
        assert await here.ask("echo", n=1) == {"n": 1}


# -- who is let in -------------------------------------------------------------------------


@asyncio_test
async def test_the_socket_is_the_owners(path: Path) -> None:
    before = os.umask(0)
    try:
        async with daemon(path):
            for file in (path, path.with_suffix(".lock")):
                assert stat.S_IMODE(file.stat().st_mode) == 0o600
            assert os.umask(0) == 0, "others make files meanwhile"
    finally:
        os.umask(before)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@asyncio_test
async def test_nobody_else_is_heard_even_if_the_file_lets_them_in(path: Path) -> None:
    async with daemon(path):
        assert await asyncio.to_thread(_said_by, NOBODY, path) == "connected, and heard b''"


@asyncio_test
async def test_a_command_knows_who_gave_it_whatever_they_say(path: Path) -> None:
    async with daemon(path) as here:
        mine = caller(os.getpid(), os.geteuid())
        assert await here.ask("who") == mine
        assert await here.ask("who", by="somebody else") == mine


def test_a_caller_is_who_logged_in_too(tmp_path: Path) -> None:
    login = tmp_path / "7" / "loginuid"
    login.parent.mkdir()
    for uid, content, said in (
        (0, None, "root (0)"),
        (0, "4294967295", "root (0)"),
        (0, "0", "root (0)"),
        (0, f"{NOBODY}\n", f"nobody ({NOBODY}) as root (0)"),
        (4_000_000_000, "0", "root (0) as ? (4000000000)"),
        (0, "no number", "root (0)"),
    ):
        if content is not None:
            login.write_text(content)
        assert caller(7, uid, proc=tmp_path) == said


def _said_by(user: int, path: Path) -> str:
    path.parent.chmod(0o755)
    path.chmod(0o777)
    script = (
        "import os, socket, sys; os.setuid(int(sys.argv[1]))\n"
        "sock = socket.socket(socket.AF_UNIX); sock.connect(sys.argv[2])\n"
        "print('connected, and heard', sock.recv(100))"
    )
    arguments = ["-I", "-c", script, str(user), str(path)]
    ran = subprocess.run(
        [sys.executable, *arguments], capture_output=True, check=True, timeout=PATIENCE
    )
    return ran.stdout.decode().strip()


# -- two daemons ---------------------------------------------------------------------------


@asyncio_test
async def test_a_second_daemon_is_refused_and_the_first_goes_on(path: Path) -> None:
    async with daemon(path) as here:
        second = Control(path)
        with pytest.raises(GatewayError, match=f"another gateway is running on {path.parent}"):
            second.claim()
        await second.close()
        assert await here.ask("echo", n=1) == {"n": 1}


@asyncio_test
async def test_the_directory_is_free_when_its_daemon_has_closed(path: Path) -> None:
    for _ in range(2):
        async with daemon(path) as here:
            assert await here.ask("echo", n=1) == {"n": 1}
        assert os.listdir(path.parent) == ["control.lock"]


@asyncio_test
async def test_what_a_killed_daemon_left_is_in_nobodys_way(path: Path) -> None:
    await asyncio.to_thread(_killed, path)
    async with daemon(path) as here:
        assert await here.ask("echo", n=1) == {"n": 1}


def _killed(path: Path) -> None:
    script = (
        "import asyncio, os, pathlib, sys; from gateway.control import Control\n"
        "async def main():\n"
        "    control = Control(pathlib.Path(sys.argv[1]))\n"
        "    control.claim()\n"
        "    await control.start({})\n"
        "    os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert killed.returncode == -9
    assert path.is_socket()


@asyncio_test
async def test_a_daemon_that_only_claimed_closes_too(path: Path) -> None:
    async with nothing_left():
        only = Control(path)
        only.claim()
        await only.close()
        await only.close()


@asyncio_test
async def test_a_place_without_room_for_a_socket_is_an_error_in_one_line(path: Path) -> None:
    nowhere, deep, taken = (path.parent / name for name in ("nowhere", "d" * 100, "taken"))
    for directory in (deep, taken / "control.sock"):
        os.makedirs(directory)
    async with nothing_left():
        with pytest.raises(GatewayError, match=r"nowhere/control\.lock: No such file"):
            Control(nowhere / "control.sock").claim()
        with pytest.raises(GatewayError, match="path too long"):
            await Control(deep / "control.sock").start({})
        with pytest.raises(GatewayError, match=r"taken/control\.sock: "):
            await Control(taken / "control.sock").start({})


# -- the command line's end ----------------------------------------------------------------


def test_where_nobody_listens_nobody_is_reached(path: Path) -> None:
    for prepare in (lambda: None, lambda: path.write_text("")):
        prepare()
        with pytest.raises(CommandFailed, match=f"no gateway answers on {path}") as failed:
            call(path, "status")
        assert failed.value.code == UNREACHABLE


@pytest.mark.parametrize("answer", [b"", b'{"result": {}'])
def test_a_daemon_that_goes_before_it_has_answered(answer: bytes, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        server = subprocess.Popen(
            [sys.executable, "-I", "-c", _ANSWER, str(listening.fileno()), answer],
            pass_fds=[listening.fileno()],
        )
        with pytest.raises(CommandFailed, match="closed the connection") as failed:
            call(path, "status")
        assert failed.value.code == UNREACHABLE
        assert server.wait() == 0


_ANSWER = (
    "import os, socket, sys; sock, _ = socket.socket(fileno=int(sys.argv[1])).accept()\n"
    "sock.recv(1000); sock.sendall(os.fsencode(sys.argv[2])); sock.close()"
)


def test_a_daemon_that_does_not_answer_is_given_up(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "TIMEOUT", 0.01)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        with pytest.raises(CommandFailed, match="timed out") as failed:
            call(path, "status")
        assert failed.value.code == UNREACHABLE
