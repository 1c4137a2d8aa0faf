"""What the doctor makes of what was found on the way."""

from __future__ import annotations

from attrs import define, field

from gateway.doctor import ADVICE, Examined, examine
from gateway.health import Findings, Row, Sightings, Step
from gateway.model import Account, Address, Monitoring, Protocol, Resource, Target
from tests.support import asyncio_test

A, B = Target(Address("a", 1)), Target(Address("b", 1))
APP, OPS, WATCH = Account("app"), Account("ops"), Account("watch")
ORDERS = Resource(
    "orders", Protocol.POSTGRESQL, (A, B), {each.name: each for each in (APP, OPS, WATCH)}
)
WELL = (Step("name", True, "10.0.0.1"), Step("TCP", True, "ok"))


@define
class Looks:
    """Finds that accounts whose names are in *refused* may not log in, and B down."""

    refused: set[str] = field(factory=set)
    asked: list[tuple[str, str | None]] = field(factory=list)

    async def __call__(
        self, resource: Resource, target: Target, account: Account | None
    ) -> Findings:
        self.asked.append((target.address.host, account and account.name))
        if target is B:
            step = Step("TCP", False, "Connection refused")
            return Findings((WELL[0], step), down="TCP: Connection refused", hard=True)
        if account is None:
            return Findings((*WELL, Step("log-in", None, "no account")))
        ok = account.name not in self.refused
        return Findings((*WELL, Step("log-in", ok, account.name, 0.5)), kind="primary")


def rows(resource: Resource) -> list[Row]:
    return Sightings(lambda: 0.0).rows(resource)


async def examined(looks: Looks, resource: Resource = ORDERS) -> list[Examined]:
    return await examine(resource, rows(resource), looks)


@asyncio_test
async def test_each_target_with_each_account() -> None:
    looks = Looks()
    well, down = await examined(looks)
    assert sorted(looks.asked) == [("a", "app"), ("a", "ops"), ("a", "watch"), ("b", "app")]
    assert (well.well, down.well) == (True, False)
    told = well.as_json()
    assert [(step["step"], step["said"]) for step in told["steps"]] == [
        ("name", "10.0.0.1"), ("TCP", "ok"), ("log-in", "app"), ("log-in", "ops"),
        ("log-in", "watch"),
    ]  # fmt: skip
    assert (told["kind"], told["steps"][2]["ms"], told["steps"][2]["advice"]) == (
        "primary", 500.0, None,
    )  # fmt: skip
    assert down.as_json()["steps"][-1] == {
        "step": "TCP", "ok": False, "said": "Connection refused", "ms": 0.0,
        "advice": ADVICE["TCP"],
    }  # fmt: skip


@asyncio_test
async def test_the_monitoring_account_is_the_first() -> None:
    looks = Looks()
    resource = Resource(
        "orders", Protocol.POSTGRESQL, (A,), ORDERS.accounts, health=Monitoring("watch")
    )
    await examined(looks, resource)
    assert looks.asked[0] == ("a", "watch")
    assert len(looks.asked) == 3


@asyncio_test
async def test_an_account_that_is_refused() -> None:
    well, _ = await examined(Looks({"ops"}))
    assert not well.well
    (failed,) = [step for step in well.as_json()["steps"] if step["ok"] is False]
    assert (failed["said"], failed["advice"]) == ("ops", ADVICE["log-in"])


@asyncio_test
async def test_what_is_wrong_only_beside_the_others() -> None:
    """Also where no monitoring account is named, so that no probe has seen it."""

    async def look(resource: Resource, target: Target, account: Account | None) -> Findings:
        return Findings(WELL, kind="primary", system="7", timeline=1 + (target is B))

    old, new = await examine(ORDERS, rows(ORDERS), look)
    assert (old.well, new.well) == (False, True)
    assert old.as_json()["steps"][-1] == {
        "step": "siblings", "ok": False, "ms": 0.0, "advice": ADVICE["siblings"],
        "said": "split brain: a primary on timeline 1, and there is one on timeline 2",
    }  # fmt: skip


@asyncio_test
async def test_without_accounts() -> None:
    looks = Looks()
    (only,) = await examined(looks, Resource("bare", Protocol.POSTGRESQL, (A,)))
    assert looks.asked == [("a", None)]
    assert only.well


@asyncio_test
async def test_what_is_known_to_be_wrong_is_wrong_though_each_step_goes_well() -> None:
    sightings = Sightings(lambda: 0.0)
    resource = Resource("orders", Protocol.POSTGRESQL, (A,), {"app": APP})
    sightings.probed(resource, A.address, Findings(strained="split brain"))
    (only,) = await examine(resource, sightings.rows(resource), Looks())
    assert not only.well
    assert only.as_json()["why"] == "split brain"
