"""The properties that routing and health hold together, over an hour in a second."""

from __future__ import annotations

import pytest
from attrs import evolve
from click.testing import CliRunner

from gateway.simulation import Plan, Report, Simulation, main

PLAN = Plan(targets=100, sessions=5000, failures=30, seconds=300)


@pytest.fixture(scope="module")
def report() -> Report:
    return Simulation(PLAN).run()


def test_nobody_is_refused_while_a_target_is_left(report: Report) -> None:
    assert report.sessions == PLAN.sessions
    assert report.refused == report.error_rate == 0


def test_the_spread(report: Report) -> None:
    """A target of a resource has 5 sessions at a time here."""
    assert 0 < report.spread <= 5


def test_sessions_are_elsewhere_in_time(report: Report) -> None:
    assert report.moved > 20
    assert report.reroute_median < 0.1
    assert report.reroute_max < PLAN.interval * 1.2 + 2 * PLAN.timeout + 0.1


def test_few_find_out_for_all(report: Report) -> None:
    """For a killed target one session or one probe does; a frozen one is tried for as long as
    the first attempt takes."""
    assert report.wasted < PLAN.failures * 10


def test_it_is_the_same_each_time() -> None:
    small = evolve(PLAN, sessions=500, targets=20, failures=6)
    one, other = Simulation(small).run(), Simulation(small).run()
    assert one == other
    assert Simulation(evolve(small, seed=2)).run() != one


def test_all_out_of_order_at_once_is_told() -> None:
    lonely = evolve(PLAN, targets=2, each=1, sessions=400, failures=40, outage=60)
    assert Simulation(lonely).run().refused > 10


def test_without_failures_nothing_moves() -> None:
    calm = Simulation(evolve(PLAN, failures=0, sessions=2000)).run()
    assert (calm.refused, calm.moved, calm.wasted) == (0, 0, 0)


def test_the_command() -> None:
    done = CliRunner().invoke(main, ["--targets", "10", "--sessions", "200", "--failures", "2"])
    assert done.exit_code == 0, done.output
    told = dict(line.split() for line in done.output.splitlines())
    assert (told["sessions"], told["refused"], told["error_rate"]) == ("200", "0", "0.0000%")
