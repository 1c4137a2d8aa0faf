"""A connection for jumping is a log-in like others: on record, counted, and limited."""

from __future__ import annotations

import re
from pathlib import Path

from tests.real.servers import until
from tests.real.ssh_clients import Person
from tests.real.ssh_servers import StartSsh, UnixUser

pytest_plugins = ["tests.real.ssh_fixtures"]


def test_a_jump_is_noted_and_has_a_seat_until_it_ends(
    start_ssh: StartSsh, deploy: UnixUser, ssh_tmp: Path, people_keys: dict[str, str]
) -> None:
    gateway = start_ssh("limits: {sessions_per_user: 2}\n")  # the jump, and what goes through it
    key = ssh_tmp / "keys" / "alice"
    alice = Person(gateway.directory / "alice", key, gateway).set_up()

    def jumps() -> bool:
        done = alice.jump("alice", f"{deploy.name}@web", "echo in")
        assert b"in" in done.stdout or b"too many connections" in done.stderr, done.stderr
        return done.returncode == 0

    assert jumps()
    noted = gateway.audited("login.jump")[0]
    assert (noted["user"], noted["source"], noted["method"]) == ("alice", "127.0.0.1", "publickey")
    assert re.search(r'gateway_logins_total\{outcome="jump"\} 1\.0', gateway.get("metrics")[1])
    with alice.master("alice", ssh_tmp / "seats"):
        until(lambda: len(gateway.audited("login.jump")) == 2, "the second log-in")
        assert not jumps(), "all seats are taken: by the one that waits, and by the jump"
    until(jumps, "the seat of who has gone")
