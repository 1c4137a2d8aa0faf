"""Comparing terms: a table of what covers what, and the laws that tie covers to rank."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model import Protocol, SshRights, TargetKind, Terms
from gateway.terms import covers, rank, words

LIMIT = st.none() | st.sampled_from([1.0, 60.0, 3600.0])
FORWARDS = st.lists(
    st.sampled_from(
        ["*:*", "127.0.0.1:*", "10.*:22", "10.0.*:22", "10.0.0.1:22", "[::1]:80", "/run/*"]
    ),
    unique=True,
    max_size=3,
).map(tuple)
SSH = st.builds(
    SshRights,
    shell=st.booleans(),
    exec=st.booleans(),
    sftp=st.booleans(),
    forward=FORWARDS,
    agent=st.booleans(),
    record_input=st.booleans(),
)
TERMS = st.builds(
    Terms,
    targets=st.sampled_from(TargetKind),
    max_lag_seconds=LIMIT,
    read_only=st.booleans(),
    statement_timeout_seconds=LIMIT,
    max_session_seconds=LIMIT,
    idle_seconds=LIMIT,
    replication=st.booleans(),
    ssh=st.just(SshRights()) | SSH,
)


def forward(*patterns: str) -> Terms:
    return Terms(ssh=SshRights(forward=patterns))


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        (Terms(), Terms(read_only=True)),
        (Terms(replication=True), Terms()),
        (Terms(), Terms(targets=TargetKind.STANDBY)),
        (Terms(targets=TargetKind.PREFER_STANDBY), Terms(targets=TargetKind.PRIMARY)),
        (Terms(), Terms(max_lag_seconds=5)),
        (Terms(), Terms(statement_timeout_seconds=5)),
        (Terms(max_session_seconds=6), Terms(max_session_seconds=5)),
        (Terms(), Terms(idle_seconds=5)),
        (Terms(), Terms(ssh=SshRights(shell=False))),
        (Terms(ssh=SshRights(agent=True)), Terms()),
        (Terms(ssh=SshRights(x11=True)), Terms()),
        (forward("127.0.0.1:*"), forward("127.0.0.1:80")),
        (forward("10.*:22"), forward("10.0.*:22")),
        (forward("*:*"), forward("[2001:db8::1]:80", "db:5432")),
        (forward("*:*", "/run/*"), forward("/run/x.sock")),
        (Terms(), Terms(ssh=SshRights(record_input=True))),
    ],
)
def test_covers_only_one_way(wide: Terms, narrow: Terms) -> None:
    assert covers(wide, narrow)
    assert not covers(narrow, wide)
    assert rank(wide) > rank(narrow) or "forward" in repr(wide)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Terms(targets=TargetKind.PRIMARY), Terms(targets=TargetKind.STANDBY)),
        (Terms(read_only=True), Terms(targets=TargetKind.STANDBY)),
        (forward("10.0.0.1:*"), forward("*:22")),
        (forward("10.0.0.1:22"), forward("10.0.0a1:22")),  # a dot is a dot
        (forward("*:*"), forward("localhost:80")),  # which is named, or not meant
        (forward("*:*"), forward("/run/x.sock")),
        (Terms(ssh=SshRights(record_input=True, agent=True)), Terms()),
    ],
)
def test_neither_covers_the_other(one: Terms, other: Terms) -> None:
    assert not covers(one, other)
    assert not covers(other, one)


@given(TERMS)
def test_terms_cover_themselves(terms: Terms) -> None:
    assert covers(terms, terms)


@given(TERMS, TERMS, TERMS)
def test_covering_is_transitive(one: Terms, two: Terms, three: Terms) -> None:
    assert covers(one, three) or not (covers(one, two) and covers(two, three))


def test_rank_weighs_in_the_order_that_is_documented() -> None:
    ladder = [
        Terms(read_only=True),
        Terms(targets=TargetKind.STANDBY, replication=True),
        Terms(targets=TargetKind.PRIMARY),
        Terms(targets=TargetKind.PREFER_STANDBY),
        Terms(ssh=SshRights(record_input=True)),
        Terms(max_session_seconds=60, idle_seconds=60),
        Terms(max_session_seconds=60),
        Terms(max_session_seconds=3600, idle_seconds=1),
        Terms(),
        Terms(ssh=SshRights(forward=("db:80",), record_input=True)),
        Terms(replication=True, max_session_seconds=1),
    ]
    assert sorted(ladder, key=rank) == ladder


def test_words() -> None:
    terms = Terms(targets=TargetKind.STANDBY, read_only=True, max_session_seconds=28800)
    postgresql = Protocol.POSTGRESQL
    assert words(terms, postgresql) == "read only, targets: standby, sessions up to 28800 s"
    assert words(Terms(replication=True), postgresql) == "read and write, targets: any, replication"
    slow = Terms(statement_timeout_seconds=9, max_lag_seconds=1.5)
    limits = "statements up to 9 s, lag up to 1.5 s"
    assert words(slow, postgresql) == f"read and write, targets: any, {limits}"


@pytest.mark.parametrize(
    ("ssh", "said"),
    [
        (SshRights(), "shell, exec, sftp"),
        (SshRights(record_input=True), "shell, exec, sftp, typing is recorded"),
        (SshRights(exec=False, agent=True, x11=True), "shell, sftp, agent, x11"),
        (
            SshRights(shell=False, exec=False, sftp=False, forward=("db:5432", "/run/*")),
            "forward to db:5432 /run/*",
        ),
        (SshRights(shell=False, exec=False, sftp=False), "nothing"),
    ],
)
def test_ssh_is_told_in_its_own_words(ssh: SshRights, said: str) -> None:
    assert words(Terms(ssh=ssh), Protocol.SSH) == said
    limited = Terms(ssh=ssh, read_only=True, idle_seconds=5, statement_timeout_seconds=9)
    assert words(limited, Protocol.SSH) == f"{said}, idle up to 5 s"
