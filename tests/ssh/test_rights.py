"""What a role lets a session ask for."""

from __future__ import annotations

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from gateway.model import SshRights
from gateway.ssh.rights import may_forward, may_forward_path, may_listen, may_request

NOTHING = SshRights(shell=False, exec=False, sftp=False)
EVERYTHING = SshRights(forward=("*:*", "/*"), agent=True, x11=True)


@pytest.mark.parametrize(
    ("right", "request_", "detail"),
    [
        ("shell", b"shell", b""),
        ("exec", b"exec", b""),
        ("exec", b"subsystem", b"netconf"),
        ("exec", b"subsystem", b""),
        ("exec", b"subsystem", b"SFTP"),
        ("exec", b"subsystem", b"sftp\0"),
        ("sftp", b"subsystem", b"sftp"),
        ("agent", b"auth-agent-req@openssh.com", b""),
        ("x11", b"x11-req", b""),
    ],
)
def test_each_request_has_one_right(right: str, request_: bytes, detail: bytes) -> None:
    assert may_request(evolve(NOTHING, **{right: True}), request_, detail)
    assert not may_request(evolve(EVERYTHING, **{right: False}), request_, detail)


@pytest.mark.parametrize(
    "request_", [b"pty-req", b"window-change", b"signal", b"break", b"eow@openssh.com"]
)
def test_what_needs_no_right(request_: bytes) -> None:
    assert may_request(NOTHING, request_, b"")


@pytest.mark.parametrize(
    "request_",
    [b"", b"Shell", b"shell ", b"exec\0", b"auth-agent-req", b"exit-status", b"xon-xoff",
     b"x11-req@openssh.com", b"something@example.com", b"\xff"],
)  # fmt: skip
def test_what_nobody_may_ask_for(request_: bytes) -> None:
    assert not may_request(EVERYTHING, request_, b"sftp")


@pytest.mark.parametrize(
    "name",
    [b"LANG", b"LANGUAGE", b"LC_ALL", b"LC_CTYPE", b"LC_MY_OWN", b"TERM", b"COLORTERM", b"NO_COLOR",
     b"TZ", b"GIT_PROTOCOL"],
)  # fmt: skip
def test_variables_that_pass(name: bytes) -> None:
    assert may_request(NOTHING, b"env", name)


@pytest.mark.parametrize(
    "name",
    [b"", b"LD_PRELOAD", b"LD_LIBRARY_PATH", b"PATH", b"BASH_ENV", b"ENV", b"IFS", b"PS4", b"HOME",
     b"SHELLOPTS", b"PYTHONPATH", b"PERL5OPT", b"NLSPATH", b"LOCPATH", b"TERMINFO", b"TERMCAP",
     b"GIT_SSH_COMMAND", b"GIT_PROTOCOL_FROM_USER", b"BASH_FUNC_ls%%", b"SSH_AUTH_SOCK", b"lang",
     b"LC_", b"LC_all", b"LC_ALL\n", b"LC_ALL\0", b"LC_ALL=x", b"LC_ALL=x\nLD_PRELOAD", b" LANG",
     b"LANG ", b"XLANG", b"LANGX", b"TERM\nLD_PRELOAD", b"LC_\xff"],
)  # fmt: skip
def test_variables_that_do_not(name: bytes) -> None:
    assert not may_request(EVERYTHING, b"env", name)


def test_any_pattern_of_the_role_will_do() -> None:
    rights = SshRights(forward=("db:5432", "localhost:*", "/run/*"))
    assert may_forward(rights, "db", 5432)
    assert may_forward(rights, "127.0.0.1", 22)
    assert not may_forward(rights, "db", 22)
    assert may_listen(rights, "localhost", 0)
    assert not may_listen(rights, "", 0)
    assert may_forward_path(rights, "/run/x")
    assert not may_forward_path(rights, "/run/../x")


@pytest.mark.parametrize("host", ["db", "localhost", "10.0.0.1", "::1", ""])
def test_without_patterns_nothing_is_forwarded(host: str) -> None:
    assert not may_forward(SshRights(), host, 80)
    assert not may_listen(SshRights(), host, 80)
    assert not may_forward_path(SshRights(), "/run/x")


def test_everything_is_not_the_targets_own_loopback() -> None:
    assert may_forward(EVERYTHING, "db", 80)
    assert not may_forward(EVERYTHING, "localhost", 80)
    assert not may_forward(EVERYTHING, "169.254.169.254", 80)
    assert may_listen(EVERYTHING, "localhost", 80)


@given(st.binary(), st.binary())
def test_any_request_is_judged(request: bytes, detail: bytes) -> None:
    assert may_request(EVERYTHING, request, detail) in (True, False)
    if not detail.startswith((b"LANG", b"LC_", b"TERM", b"COLORTERM", b"NO_COLOR", b"TZ", b"GIT")):
        assert not may_request(EVERYTHING, b"env", detail)
