"""Many clients at once, and one after the other, that never say who they are."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.real.conftest import Start
from tests.real.raw import RawClient, Refusal, log_in
from tests.real.servers import GatewayProcess, until

ALICE = "alice's password"
MOST = 50  # unauthenticated_per_address, by default


@pytest.fixture(scope="module")
def gateway(start: Start) -> GatewayProcess:
    """Does not wait long for anybody."""
    return start("limits: {login_seconds: 2}\n")


@pytest.fixture
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
def test_a_crowd_from_one_address_is_turned_away(gateway: GatewayProcess) -> None:
    before = gateway.memory()
    with ExitStack() as stack:
        crowd = [stack.enter_context(RawClient(gateway, "127.0.0.7")) for _ in range(2000)]
        said = [client.rest() for client in crowd]
    turned_away = [b"Mtoo many connections\0" in each for each in said]
    assert all(b"Mlog-in took too long" in each for each in said[:MOST])
    assert turned_away.count(True) >= 2000 - 2 * MOST  # a slow machine sees the first ones go
    assert all(b"C53300\0" in each or b"C08P01\0" in each for each in said)
    assert gateway.memory() - before < 10_000_000


def test_others_are_served_while_an_address_is_full(gateway: GatewayProcess) -> None:
    with ExitStack() as stack:
        for _ in range(MOST):
            stack.enter_context(RawClient(gateway, "127.0.0.8"))
        said = until(lambda: refused(gateway, "127.0.0.8"), "the last to be counted")
        assert said.sqlstate == "53300"
        assert log_in(gateway, "alice", ALICE, source="127.0.0.1") == "app_ro"
    until(lambda: refused(gateway, "127.0.0.8") is None, "the strangers to be gone")


def refused(gateway: GatewayProcess, source: str) -> Refusal | None:
    try:
        log_in(gateway, "alice", ALICE, source=source)
    except Refusal as why:
        return why
    return None


@pytest.mark.usefixtures("many_files")
def test_the_memory_of_a_crowd_is_used_again(gateway: GatewayProcess) -> None:
    """From many addresses, so that all of them are waited for."""
    before, open_before = gateway.memory(), gateway.files()
    assert crowd_of(2000, gateway) < before + 20_000_000  # 10 KB each
    until(lambda: gateway.files() <= open_before, "the connections to be closed")
    between = gateway.memory()
    crowd_of(2000, gateway)
    until(lambda: gateway.files() <= open_before, "the connections to be closed")
    assert gateway.memory() < between + 3_000_000
    assert refused(gateway, "127.0.0.1") is None


def crowd_of(number: int, gateway: GatewayProcess) -> int:
    """Have so many connect and say nothing; the gateway's memory while all are there."""
    with ExitStack() as stack:
        crowd = [
            stack.enter_context(RawClient(gateway, f"127.1.0.{place // 40 + 1}"))
            for place in range(number)
        ]
        memory = gateway.memory()
        assert all(b"Mlog-in took too long" in client.rest() for client in crowd)
    return memory


def test_probes_leave_nothing_behind(gateway: GatewayProcess) -> None:
    audited = sum(path.stat().st_size for path in gateway.state.glob("audit/*.gwt"))
    before, logged = gateway.files(), gateway.log
    for _ in range(500):
        with RawClient(gateway):
            pass
    until(lambda: gateway.files() <= before, "the connections to be closed")
    assert gateway.log == logged
    assert sum(path.stat().st_size for path in gateway.state.glob("audit/*.gwt")) - audited < 1000
