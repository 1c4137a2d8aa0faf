"""Steps as they are taken, and what a failed one says of the target."""

from __future__ import annotations

import asyncio

import pytest

from gateway.errors import Unreachable
from gateway.health import Step
from gateway.health.trail import SILENCE, Trail
from tests.support import asyncio_test


class Clock:
    now = 0.0

    def __call__(self) -> float:
        self.now += 0.5
        return self.now


def test_steps() -> None:
    trail = Trail(Clock())
    with trail.step("name") as told:
        told += ["10.0.0.1", "10.0.0.2"]
    with trail.step("TCP"):
        pass
    trail.skip("TLS", "disabled")
    trail.found(kind="standby", lag_seconds=1.0)
    trail.strained("slow")
    found = trail.findings()
    assert found.steps == (
        Step("name", True, "10.0.0.1, 10.0.0.2", 0.5),
        Step("TCP", True, "ok", 0.5),
        Step("TLS", None, "disabled"),
    )
    assert (found.kind, found.lag_seconds, found.strained, found.down) == (
        "standby", 1.0, "slow", None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "error", "down", "hard"),
    [
        ("TCP", ConnectionRefusedError(111, "x"), "TCP: Connection refused", True),
        ("TLS", Unreachable("not for localhost"), "TLS: not for localhost", True),
        ("TCP", TimeoutError(), f"TCP: {SILENCE}", False),
        ("name", OSError("no such name"), "name: no such name", False),  # the resolver's, maybe
    ],
)
def test_a_step_that_fails(name: str, error: Exception, down: str, hard: bool) -> None:
    trail = Trail(Clock())
    with pytest.raises(type(error)) as caught, trail.step(name):
        raise error
    trail.down(caught.value)
    found = trail.findings()
    assert (found.down, found.hard) == (down, hard)
    assert found.steps == (Step(name, False, down.partition(": ")[2], 0.5),)


@asyncio_test
async def test_a_step_that_is_cut_off() -> None:
    trail = Trail(Clock())

    async def steps() -> None:
        with trail.step("TLS"):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError) as caught:
        await asyncio.wait_for(steps(), 0.01)
    trail.down(caught.value)
    assert (trail.findings().down, trail.findings().hard) == (f"TLS: {SILENCE}", False)


def test_nothing_could_even_be_begun() -> None:
    trail = Trail(Clock())
    trail.down(TimeoutError())
    assert trail.findings().down == f"name: {SILENCE}"
