"""Commands: they end as they would without a gateway, and every byte arrives."""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
from pathlib import Path

import pytest

from gateway.record.facts import Event
from tests.real.servers import until
from tests.real.ssh_clients import Direct, Person
from tests.real.ssh_servers import SshGateway, UnixUser

pytest_plugins = ["tests.real.ssh_fixtures"]

MUCH = 1 << 30 if os.environ.get("GATEWAY_TEST_GIGABYTE") else 256 << 20  # bytes
CHUNK = 1 << 20  # bytes


def seen(done: subprocess.CompletedProcess[bytes]) -> tuple[int, bytes, bytes]:
    return done.returncode, done.stdout, done.stderr


ENDINGS = {
    "a status": "exit 37",
    "killed": "kill -9 $$",
    "terminated": "kill -TERM $$",
    "a core": "ulimit -c 0; kill -SEGV $$",
    "no such command": "/nonexistent/command",
    "both streams": "echo out; echo err >&2; exit 3",
    "nothing at all": ":",
    "closed streams": "exec <&- >&- 2>&-; exit 5",
    "much on both": "head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2",
    "bytes that are no UTF-8": "printf '\\377\\376\\000\\r\\n'",
    "a child that lives on": "sleep 0.3 & echo started",
}


@pytest.mark.parametrize("case", ENDINGS)
def test_commands_end_as_they_would_without_a_gateway(
    alice: Person, direct: Direct, case: str
) -> None:
    assert seen(alice.ssh("alice#web", ENDINGS[case])) == seen(direct.ssh(ENDINGS[case]))


def test_how_a_command_ended_is_recorded(alice: Person, ssh_gateway: SshGateway) -> None:
    alice.ssh("alice#web", "echo out; echo err >&2; exit 37")
    told = ssh_gateway.events()
    (command,) = [event for event in told if event["kind"] == "exec"]
    assert command["command"] == "echo out; echo err >&2; exit 37"
    assert command["exit_status"] == 37
    printed = {e["stream"]: e["data"] for e in told if e["kind"] == "output"}
    assert printed == {"stdout": "out\n", "stderr": "err\n"}
    alice.ssh("alice#web", "kill -9 $$")
    (command,) = [event for event in ssh_gateway.events() if event["kind"] == "exec"]
    assert (command["exit_status"], command["exit_signal"]) == (None, "KILL")


def test_a_command_that_is_no_utf8(alice: Person, ssh_gateway: SshGateway) -> None:
    command = [os.fsencode(part) for part in alice.command("ssh", "alice#web@127.0.0.1")]
    script = b"printf '%s' '\xff\xfe' | od -An -tx1"
    done = subprocess.run(
        [*command, script], env=alice.env(), capture_output=True, timeout=30, check=False
    )
    assert done.stdout.split() == [b"ff", b"fe"]
    (told,) = [event for event in ssh_gateway.events() if event["kind"] == "exec"]
    assert set(told["command"]) == {"base64"}


def test_the_end_of_the_input_arrives(alice: Person, ssh_gateway: SshGateway) -> None:
    done = alice.ssh("alice#web", "cat; echo the end", input=b"one\ntwo\n")
    assert done.stdout == b"one\ntwo\nthe end\n"
    (closed,) = [event for event in ssh_gateway.events() if event["kind"] == "closed"]
    assert (closed["bytes_in"], closed["bytes_out"]) == (8, 16)


def test_a_reader_that_leaves_early(alice: Person, direct: Direct) -> None:
    """The writer is told, as by a pipe."""
    data = bytes(2_000_000)
    through = alice.ssh("alice#web", "head -c 1", input=data)
    assert seen(through) == seen(direct.ssh("head -c 1", input=data))


def test_much_comes_back_as_it_went(alice: Person) -> None:
    """Binary, both ways at once."""
    process = alice.start("alice#web@127.0.0.1", "cat")
    assert process.stdin is not None
    assert process.stdout is not None
    sent = hashlib.sha256()

    def feed() -> None:
        block = os.urandom(CHUNK)
        for number in range(MUCH // CHUNK):
            data = number.to_bytes(8) + block[8:]
            sent.update(data)
            process.stdin.write(data)
        process.stdin.close()

    feeder = threading.Thread(target=feed)
    feeder.start()
    came, length = hashlib.sha256(), 0
    while data := process.stdout.read(CHUNK):
        came.update(data)
        length += len(data)
    feeder.join()
    assert process.stderr is not None
    assert (process.wait(30), process.stderr.read()) == (0, b"")
    process.stdout.close(), process.stderr.close()
    assert length == MUCH
    assert came.digest() == sent.digest()


def test_output_without_end_is_not_kept(alice: Person, ssh_gateway: SshGateway) -> None:
    """What a command prints without a terminal is recorded up to a megabyte, and counted."""
    done = alice.ssh("alice#web", "head -c 5000000 /dev/zero")
    assert len(done.stdout) == 5_000_000
    told = ssh_gateway.events()
    kept = sum(len(e["data"]) for e in told if e["kind"] == "output")
    (closed,) = [event for event in told if event["kind"] == "closed"]
    assert (kept, closed["bytes_out"]) == (1 << 20, 5_000_000)


def test_the_environment_passes_by_name(alice: Person, ssh_gateway: SshGateway) -> None:
    wanted = {"LC_TEST": "yes", "LANG": "C.UTF-8", "LD_PRELOAD": "/evil.so", "BASH_ENV": "/evil"}
    for name, value in wanted.items():
        done = alice.having(f"SetEnv={name}={value}").ssh("alice#web", f'printf %s "${name}"')
        passes = name in ("LC_TEST", "LANG")
        assert done.stdout.decode() == (value if passes else ""), name
        told = ssh_gateway.events()
        (channel,) = [event for event in told if event["kind"] == "channel"]
        assert channel["environment"] == ({name: value} if passes else {})
        assert [e["request"] for e in told if e["kind"] == "denied"] == ([] if passes else ["env"])


def test_several_channels_of_one_connection(
    alice: Person, ssh_gateway: SshGateway, ssh_tmp: Path
) -> None:
    with alice.master("alice#web", ssh_tmp / "control") as through:
        running = [
            through.start("alice#web@127.0.0.1", f"read x; echo $x {n}; exit {n}")
            for n in range(20)
        ]
        for n, process in enumerate(running):
            out, err = process.communicate(b"hello\n", timeout=30)
            assert (out.decode(), process.returncode) == (f"hello {n}\n", n), err
        done = through.run("sftp", "-b", "-", "alice#web@127.0.0.1", input=b"pwd\n")
        assert done.returncode == 0
    row = ssh_gateway.newest()
    told = until(lambda: ended(ssh_gateway, row["id"]), "the session to end")
    statuses = [event["exit_status"] for event in told if event["kind"] == "exec"]
    assert sorted(statuses) == list(range(20))
    assert row["statements"] == 21
    assert len({event["channel"] for event in told if event["kind"] == "closed"}) == 21


def ended(gateway: SshGateway, session: str) -> list[Event]:
    told = gateway.events(session)
    return told if told[-1]["kind"] == "end" else []


def test_a_target_that_dies_ends_the_session(
    alice: Person, ssh_gateway: SshGateway, deploy: UnixUser
) -> None:
    done = alice.ssh("alice#web", "kill -9 $PPID; sleep 5")
    assert done.returncode == 255
    assert b"the target closed the connection" in done.stderr
    assert ssh_gateway.newest()["reason"].startswith("target")
