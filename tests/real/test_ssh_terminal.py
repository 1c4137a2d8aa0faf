"""Terminals: what is typed, drawn, resized and interrupted, seen from a real pseudo-terminal."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gateway.record.facts import Event
from tests.real.servers import until
from tests.real.ssh_clients import Person, Terminal
from tests.real.ssh_servers import SshGateway
from tests.support import over

pytest_plugins = ["tests.real.ssh_fixtures"]

SIZES = [(40, 132), (11, 77)]  # lines and columns


@contextmanager
def shell(person: Person, *options: str) -> Iterator[Terminal]:
    """A shell with a prompt that nobody types."""
    with Terminal(person.command("ssh", *options, "alice#web@127.0.0.1"), person.env()) as terminal:
        terminal.type("PROMPT_COMMAND=; bind 'set enable-bracketed-paste off'; PS1='ready''> '\r")
        terminal.wait_for("ready> ")
        yield terminal


def test_a_shell(alice: Person, ssh_gateway: SshGateway) -> None:
    with shell(alice) as terminal:
        terminal.type("echo $((6 * 7)) $TERM\r")
        terminal.wait_for("42 xterm-256color\r\n")
        terminal.type("exit 5\r")
        assert terminal.wait() == 5
    told = ssh_gateway.events()
    (channel,) = [event for event in told if event["kind"] == "channel"]
    assert channel["type"] == "shell"
    assert channel["pty"] == {"term": "xterm-256color", "columns": 80, "rows": 24}
    assert "42 xterm-256color" in shown(told)
    assert not [event for event in told if event["kind"] == "input"]


def test_a_new_size_reaches_the_target(alice: Person, ssh_gateway: SshGateway) -> None:
    loop = """exec sh -c 'trap "stty size" WINCH; stty size; while sleep 0.05; do :; done'"""
    with Terminal(alice.command("ssh", "-t", "alice#web@127.0.0.1", loop), alice.env()) as terminal:
        terminal.wait_for("24 80\r\n")
        for rows, columns in SIZES:
            terminal.resize(rows, columns)
            terminal.wait_for(f"{rows} {columns}\r\n", poke=signal.SIGWINCH)
    sizes = [
        (event["rows"], event["columns"])
        for event in ssh_gateway.events()
        if event["kind"] == "resize"
    ]
    assert sizes == SIZES


@pytest.mark.parametrize("program", ["vim", "top"])
def test_programs_of_the_whole_screen(alice: Person, program: str) -> None:
    with shell(alice) as terminal:
        terminal.type({"vim": "vim -u NONE -N\r", "top": "top\r"}[program])
        terminal.wait_for({"vim": "~", "top": "PID"}[program])
        terminal.resize(50, 120)
        terminal.wait_for({"vim": "\x1b[49;1H", "top": "COMMAND"}[program], poke=signal.SIGWINCH)
        terminal.type({"vim": ":q!\r", "top": "q"}[program])
        terminal.wait_for("ready> ")


def test_ctrl_c_and_ctrl_d(alice: Person) -> None:
    """They are the terminal's: the target's, that is."""
    for keys, end in (("\x03", "ended with 130"), ("\x04", "ended with 0")):
        command = "trap : INT; echo go; cat; echo ended with $?"
        with Terminal(alice.command("ssh", "-t", "alice#web@127.0.0.1", command), alice.env()) as t:
            t.wait_for("go\r\n")
            t.type("echo me\r")
            t.wait_for("echo me\r\necho me\r\n")
            t.type(keys)
            t.wait_for(f"{end}\r\n")


def test_a_flood_can_be_interrupted(alice: Person) -> None:
    """With a megabyte on its way, Ctrl-C still comes through at once."""
    with shell(alice) as terminal:
        terminal.type("yes flood\r")
        terminal.wait_for("flood\r\nflood\r\n" * 100)
        terminal.type("\x03")
        terminal.wait_for("ready> ")
        terminal.type("echo $?\r")
        terminal.wait_for("130\r\n")


def test_terminal_modes_pass(alice: Person) -> None:
    """The target's terminal is as the client's: here, one that erases with ^H."""
    command = alice.command("ssh", "-t", "alice#web@127.0.0.1", "stty -a")
    script = 'stty erase ^H; exec "$@"'
    with Terminal(["sh", "-c", script, "sh", *command], alice.env()) as terminal:
        terminal.wait_for("erase = ^H")


def test_signals_reach_a_command(alice: Person, ssh_gateway: SshGateway) -> None:
    """ssh sends none by itself but for those of a terminal; ~B sends a break."""
    with shell(alice) as terminal:
        terminal.type("\r~B")
        terminal.type("\recho alive\r")
        terminal.wait_for("alive\r\n")


def test_what_is_typed_is_recorded_if_the_role_says_so(
    alice: Person, ssh_gateway: SshGateway, ssh_objects: str
) -> None:
    """But not what a terminal does not show: passwords."""
    recorded = ssh_objects.replace(
        "labels: {env: test}}, accounts",
        "labels: {env: test}}, ssh: {record_input: true}, accounts",
    )
    assert recorded != ssh_objects
    ssh_gateway.put(recorded)
    try:
        with shell(alice) as terminal:
            terminal.type("echo visible\r")
            terminal.wait_for("\nvisible\r\n")
            terminal.type("read -s -p 'Pass''word: ' x; echo got ${#x}\r")
            terminal.wait_for("Password: ")
            terminal.type("hunter2\r")
            terminal.wait_for("got 7\r\n")
            terminal.type("exit\r")
            terminal.wait()
        told = ssh_gateway.events()
    finally:
        ssh_gateway.put(ssh_objects)
    typed = "".join(event["data"] for event in told if event["kind"] == "input")
    assert "echo visible" in typed
    assert "hunter2" not in str(told)


def test_a_connection_that_breaks_hangs_up_the_terminal(
    alice: Person, ssh_gateway: SshGateway
) -> None:
    with shell(alice) as terminal:
        terminal.type("echo pid=$$.\r")
        terminal.wait_for("\npid=")
        pid = int(terminal.wait_for("."))
        terminal.kill()
    until(lambda: over(pid), "the shell to be hung up")


def shown(told: list[Event]) -> str:
    return "".join(event["data"] for event in told if event["kind"] == "output")
