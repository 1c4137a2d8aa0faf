"""A refused account is left alone for a while, and an administrator is told."""

from __future__ import annotations

from gateway.health import RefusedAccounts, Spot, accounts
from gateway.health.accounts import FIRST, LONGEST
from gateway.model import Account, Address, Secret, Target
from gateway.routing import Candidate

HERE, THERE = Spot("orders", Address("a", 1)), Spot("orders", Address("b", 1))
APP = Account("app", Secret(b"wrong"))


class Told:
    """A clock that tests turn, and what an administrator read."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.read: list[tuple[Spot, str, str]] = []
        self.accounts = RefusedAccounts(lambda: self.now, lambda *told: self.read.append(told))


def test_it_waits_longer_each_time() -> None:
    told = Told()
    assert told.accounts.barred(HERE, APP) is None
    waits = []
    for _ in range(9):
        told.accounts.refused(HERE, APP, "28P01")
        began = told.now
        while told.accounts.barred(HERE, APP) is not None:
            told.now += 1
        waits.append(told.now - began)
    assert waits[:3] == [FIRST, 2 * FIRST, 4 * FIRST]
    assert waits[-2:] == [LONGEST, LONGEST]
    assert told.read == [(HERE, "app", "28P01")] * 9
    told.accounts.worked(HERE, APP)
    told.accounts.refused(HERE, APP, "28P01")
    told.now += FIRST
    assert told.accounts.barred(HERE, APP) is None


def test_others_are_not_concerned() -> None:
    told = Told()
    told.accounts.refused(HERE, APP, "no")
    assert told.accounts.barred(HERE, APP) == "no; app is not tried again for 5 s"
    assert told.accounts.barred(THERE, APP) is None
    assert told.accounts.barred(HERE, Account("app", Secret(b"mended"))) is None
    assert told.accounts.barred(HERE, Account("other", Secret(b"wrong"))) is None


def test_what_is_left_of_an_order() -> None:
    told = Told()
    told.accounts.refused(HERE, APP, "no")
    targets = [Target(Address(name, 1)) for name in "abcd"]
    order = [Candidate(target, "") for target in targets[:3]]
    order.append(Candidate(targets[3], "", closed="is down"))
    passed = {targets[2].address: "tried"}
    assert list(told.accounts.sift("orders", APP, order, passed)) == [targets[1]]
    assert passed == {
        targets[0].address: "no; app is not tried again for 5 s",
        targets[2].address: "tried",
        targets[3].address: "is down",
    }


def test_memory_is_bounded(monkeypatch) -> None:
    monkeypatch.setattr(accounts, "MOST", 3)
    told = Told()
    for name in "abcde":
        told.accounts.refused(HERE, Account(name), "no")
    barred = [name for name in "abcde" if told.accounts.barred(HERE, Account(name))]
    assert barred == ["c", "d", "e"]
