"""Where sessions go: a primary and its standby, and what happens when one of them is away."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from tests.real.conftest import Start
from tests.real.servers import PASSWORDS, GatewayProcess, PostgresServer, free_port, until


@pytest.fixture(scope="module")
def standby(postgres: PostgresServer, short_tmp: Path) -> Iterator[PostgresServer]:
    server = postgres.standby(short_tmp / "standby")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def gateway(start: Start, postgres: PostgresServer, standby: PostgresServer) -> GatewayProcess:
    """Of the three targets nobody listens on the first."""
    ports = (free_port(), postgres.port, standby.port)
    targets = ", ".join(f'{{address: "localhost:{port}"}}' for port in ports)
    kinds = ("any", "primary", "standby", "prefer-standby")
    users = "".join(f"  - {{name: {kind}, password: {{plain: secret}}}}\n" for kind in kinds)
    roles = "".join(
        f"  - {{name: {kind}, allow: "
        f"[{{resources: {{names: [orders]}}, accounts: [app_ro], targets: {kind}}}]}}\n"
        for kind in kinds
    )
    bindings = "".join(
        f"  - {{name: {kind}, role: {kind}, subjects: [user:{kind}]}}\n" for kind in kinds
    )
    resource = f"""\
  - name: orders
    protocol: postgresql
    targets: [{targets}]
    tls: {{mode: verify-full, ca: {{file: {postgres.ca_file}}}}}
    accounts: [{{name: app_ro, password: {{value: "{PASSWORDS["app_ro"]}"}}}}]
"""
    return start(
        objects=f"resources:\n{resource}users:\n{users}roles:\n{roles}bindings:\n{bindings}"
    )


def is_standby(gateway: GatewayProcess, kind: str) -> bool:
    """Where a session under a role for *kind* of target has come to."""
    with gateway.connect(user=kind, password="secret", dbname="orders/postgres") as connection:
        row = connection.execute("SELECT pg_is_in_recovery()").fetchone()
        assert row is not None
        return bool(row[0])


def test_each_kind_finds_its_own(gateway: GatewayProcess) -> None:
    for _ in range(3):  # what is known of the targets changes nothing
        assert is_standby(gateway, "standby")
        assert not is_standby(gateway, "primary")
        assert is_standby(gateway, "prefer-standby")
        is_standby(gateway, "any")  # is let in, wherever it comes to


def test_the_list_says_where_a_session_went(
    gateway: GatewayProcess, standby: PostgresServer
) -> None:
    assert is_standby(gateway, "standby")
    newest = gateway.sessions("--user", "standby")[0]
    assert newest["target"] == f"localhost:{standby.port}"


def returned(gateway: GatewayProcess) -> bool:
    with suppress(psycopg.OperationalError):  # what is down gets nothing but probes
        return is_standby(gateway, "standby")
    return False


def test_a_standby_that_goes_away(gateway: GatewayProcess, standby: PostgresServer) -> None:
    standby.stop()
    try:
        began = time.monotonic()
        assert not is_standby(gateway, "prefer-standby")
        assert time.monotonic() - began < 3
        with pytest.raises(psycopg.OperationalError, match="no target can take this session now"):
            is_standby(gateway, "standby")
    finally:
        standby.start()
    until(lambda: returned(gateway), "a probe to find the standby again")
