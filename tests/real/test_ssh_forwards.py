"""Forwards, agents and X11: as the role has it, each asked of the target, each recorded."""

from __future__ import annotations

import shlex
import socket
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from gateway.record.facts import Event
from tests.real.servers import free_port, until
from tests.real.ssh_clients import Person
from tests.real.ssh_servers import SshGateway, UnixUser, give, keygen, run

pytest_plugins = ["tests.real.ssh_fixtures"]


class Echo(socketserver.StreamRequestHandler):
    """Says hello, then everything back."""

    def handle(self) -> None:
        with suppress(OSError):
            self.wfile.write(b"hello\n")
            for line in self.rfile:
                self.wfile.write(line)


@pytest.fixture(scope="module")
def echo() -> Iterator[int]:
    """The port of a server on the target's side."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@contextmanager
def running(person: Person, *options: str, login: str) -> Iterator[subprocess.Popen[bytes]]:
    """A connection that is there for its forwards: until the first of them is."""
    command = (*options, "-o", "ExitOnForwardFailure=yes", f"{login}@127.0.0.1", "echo in; cat")
    process = person.start(*command)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"in\n"
        yield process
    finally:
        process.communicate(timeout=30)


def talk(sock: socket.socket) -> bytes:
    """What is said when one says something and then nothing more; nothing by who hangs up."""
    with sock, sock.makefile("rb") as answers, suppress(OSError):
        sock.sendall(b"how are you\n")
        sock.shutdown(socket.SHUT_WR)
        return answers.read()
    return b""


def to(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), 10)


def socks(proxy: int, host: str, port: int) -> socket.socket:
    """Through a SOCKS 5 proxy (RFC 1928)."""
    sock = to(proxy)
    sock.sendall(b"\x05\x01\x00")
    assert sock.recv(2) == b"\x05\x00"
    name = host.encode()
    sock.sendall(b"\x05\x01\x00\x03" + bytes((len(name),)) + name + port.to_bytes(2))
    assert sock.recv(10)[:2] in (b"\x05\x00", b"")  # ssh hangs up where it may not
    return sock


def forwards(gateway: SshGateway) -> list[Event]:
    session = gateway.newest()["id"]
    told = until(lambda: ended(gateway.events(session)), "the session to end")
    return [event for event in told if event["kind"] == "forward"]


def ended(told: list[Event]) -> list[Event]:
    return told if told[-1]["kind"] == "end" else []


TALK = b"hello\nhow are you\n"


# -- to where the target can reach ---------------------------------------------------------


def test_a_local_forward(bob: Person, ssh_gateway: SshGateway, echo: int) -> None:
    port = free_port()
    with running(bob, "-L", f"{port}:127.0.0.1:{echo}", login="bob#web"):
        assert talk(to(port)) == TALK
        assert talk(to(port)) == TALK
    told = forwards(ssh_gateway)
    assert [event["to"] for event in told] == [f"127.0.0.1:{echo}"] * 2
    assert [(e["bytes_in"], e["bytes_out"]) for e in told] == [(12, 18)] * 2


def test_a_dynamic_forward(bob: Person, ssh_gateway: SshGateway, echo: int) -> None:
    port = free_port()
    with running(bob, "-D", f"127.0.0.1:{port}", login="bob#web"):
        assert talk(socks(port, "localhost", echo)) == TALK
        assert talk(socks(port, "169.254.169.254", 80)) == b""
        assert talk(socks(port, "example.com", 80)) == b""
    told = {event["to"]: event for event in forwards(ssh_gateway)}
    assert told[f"localhost:{echo}"]["bytes_out"] == 18
    assert told["169.254.169.254:80"]["refused"]
    assert told["example.com:80"]["refused"]


def test_nobody_listens_there(bob: Person, ssh_gateway: SshGateway) -> None:
    """The target's no reaches the client."""
    port, nobody = free_port(), free_port()
    with running(bob, "-L", f"{port}:127.0.0.1:{nobody}", login="bob#web"):
        assert talk(to(port)) == b""
    (told,) = forwards(ssh_gateway)
    assert (told["to"], told.get("refused")) == (f"127.0.0.1:{nobody}", True)


def test_stdio(bob: Person, echo: int) -> None:
    done = bob.run("ssh", "-W", f"127.0.0.1:{echo}", "bob#web@127.0.0.1", input=b"how are you\n")
    assert done.stdout == TALK


def test_a_forward_that_a_role_does_not_allow(
    alice: Person, ssh_gateway: SshGateway, echo: int
) -> None:
    port = free_port()
    with running(alice, "-L", f"{port}:127.0.0.1:{echo}", login="alice#web"):
        assert talk(to(port)) == b""
    (told,) = forwards(ssh_gateway)
    assert (told["to"], told["refused"]) == (f"127.0.0.1:{echo}", True)
    done = alice.run("ssh", "-W", f"127.0.0.1:{echo}", "alice#web@127.0.0.1")
    assert b"administratively prohibited" in done.stderr


# -- back to the client --------------------------------------------------------------------


def test_a_remote_forward(bob: Person, ssh_gateway: SshGateway, echo: int) -> None:
    port = free_port()
    with running(bob, "-R", f"127.0.0.1:{port}:127.0.0.1:{echo}", login="bob#web"):
        assert talk(to(port)) == TALK
    listens, through = forwards(ssh_gateway)
    assert (listens["listen"], listens["refused"]) == (f"127.0.0.1:{port}", False)
    assert through["type"] == "forwarded-tcpip"
    assert (through["bytes_in"], through["bytes_out"]) == (18, 12)


def test_a_remote_forward_to_any_port(bob: Person, echo: int) -> None:
    """The target chooses one, and the client is told which."""
    command = bob.command("ssh", "-R", f"127.0.0.1:0:127.0.0.1:{echo}", "bob#web@127.0.0.1")
    process = subprocess.Popen(
        [*command, "cat"], env=bob.env(), stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    line = process.stderr.readline().decode()
    assert line.startswith("Allocated port ")
    assert talk(to(int(line.split()[2]))) == TALK
    process.communicate(timeout=30)


def test_a_remote_forward_that_a_role_does_not_allow(
    alice: Person, ssh_gateway: SshGateway, echo: int
) -> None:
    port = free_port()
    options = ("-R", f"{port}:127.0.0.1:{echo}", "-o", "ExitOnForwardFailure=yes")
    done = alice.run("ssh", *options, "alice#web@127.0.0.1", "true")
    assert done.returncode == 255
    assert b"remote port forwarding failed" in done.stderr
    (told,) = forwards(ssh_gateway)
    assert told["refused"]


# -- Unix sockets --------------------------------------------------------------------------


def test_unix_sockets(
    bob: Person, ssh_gateway: SshGateway, deploy: UnixUser, tmp_path: Path, ssh_tmp: Path
) -> None:
    far = deploy.home / "server.sock"
    with socketserver.ThreadingUnixStreamServer(str(far), Echo) as server:
        give(far, deploy)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        near, back = ssh_tmp / "near.sock", deploy.home / "back.sock"
        options = ("-L", f"{near}:{far}", "-R", f"{back}:{far}")
        with running(bob, *options, login="bob#web"):
            for path in (near, back):
                sock = socket.socket(socket.AF_UNIX)
                sock.connect(str(path))
                assert talk(sock) == TALK
        server.shutdown()
    told = forwards(ssh_gateway)
    assert {event.get("to") or event["listen"] for event in told} == {str(far), str(back)}


def test_unix_sockets_that_a_role_does_not_allow(
    alice: Person, ssh_gateway: SshGateway, deploy: UnixUser, ssh_tmp: Path
) -> None:
    near = ssh_tmp / "refused.sock"
    with running(alice, "-L", f"{near}:/run/whatever.sock", login="alice#web"):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(near))
        assert talk(sock) == b""
    (told,) = forwards(ssh_gateway)
    assert told["refused"]
    options = ("-R", f"{deploy.home}/no.sock:/run/x.sock", "-o", "ExitOnForwardFailure=yes")
    done = alice.run("ssh", *options, "alice#web@127.0.0.1", "true")
    assert b"remote port forwarding failed" in done.stderr


# -- agents --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def agent(ssh_tmp: Path) -> Iterator[tuple[str, str]]:
    """The socket of an agent, and the public line of the key in it."""
    path = str(ssh_tmp / "agent.sock")
    process = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)
    try:
        until(lambda: Path(path).exists(), "the agent")
        line = keygen(ssh_tmp / "agent_key")
        run("ssh-add", "-q", ssh_tmp / "agent_key", env={"SSH_AUTH_SOCK": path})
        yield path, line
    finally:
        process.kill()
        process.wait()


def test_an_agent_answers_on_the_target(
    bob: Person, ssh_gateway: SshGateway, agent: tuple[str, str]
) -> None:
    path, line = agent
    done = bob.having("ForwardAgent=yes", SSH_AUTH_SOCK=path).ssh("bob#web", "ssh-add -L")
    assert done.stdout.decode().split()[1] == line.split()[1]
    told = ssh_gateway.events()
    assert [event["kind"] for event in told if event["kind"] == "agent"] == ["agent"]
    (through,) = [event for event in told if event["kind"] == "forward"]
    assert through["type"] == "auth-agent@openssh.com"
    assert through["bytes_in"] > 0


def test_an_agent_that_a_role_does_not_allow(
    alice: Person, ssh_gateway: SshGateway, agent: tuple[str, str]
) -> None:
    person = alice.having("ForwardAgent=yes", SSH_AUTH_SOCK=agent[0])
    done = person.ssh("alice#web", "echo [$SSH_AUTH_SOCK]")
    assert done.stdout == b"[]\n"
    denied = [event["request"] for event in ssh_gateway.events() if event["kind"] == "denied"]
    assert denied == ["auth-agent-req@openssh.com"]


# -- X11 -----------------------------------------------------------------------------------


# A client that shows no cookie, to whichever display the target has been given.
PROGRAM = r"""
number=${DISPLAY#*:}
exec 3<>/dev/tcp/127.0.0.1/$((6000 + ${number%%.*}))
printf 'l\0\013\0\0\0\0\0\0\0\0\0' >&3
cat <&3 >/dev/null
echo ended
"""
X11 = ("ForwardX11=yes", "ForwardX11Trusted=yes")


def test_programs_on_the_target_reach_a_display(bob: Person, ssh_gateway: SshGateway) -> None:
    """The client itself turns them away if they have no cookie."""
    with socket.create_server(("127.0.0.1", 0)) as display:
        person = bob.having(*X11, DISPLAY=f"127.0.0.1:{display.getsockname()[1] - 6000}")
        done = person.ssh("bob#web", f"bash -c {shlex.quote(PROGRAM)}")
    assert done.stdout == b"ended\n", done.stderr
    assert b"wrong authentication" in done.stderr
    told = ssh_gateway.events()
    assert len([event for event in told if event["kind"] == "x11"]) == 1
    (through,) = [event for event in told if event["kind"] == "forward"]
    assert (through["type"], through["bytes_out"]) == ("x11", 12)


def test_x11_that_a_role_does_not_allow(alice: Person, ssh_gateway: SshGateway) -> None:
    done = alice.having(*X11, DISPLAY=":42").ssh("alice#web", "echo [$DISPLAY]")
    assert done.stdout == b"[]\n"
    assert b"X11 forwarding request failed on channel 0" in done.stderr
    denied = [event["request"] for event in ssh_gateway.events() if event["kind"] == "denied"]
    assert denied == ["x11-req"]
