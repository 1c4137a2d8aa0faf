"""Patterns of destinations: what they lead to, in every spelling that a resolver takes."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.forwards import MAX_PATH, covers, listens, reaches, reaches_path

# One place, and how else it may be written.
LOOPBACK = [
    "127.0.0.1", "127.0.0.1.", "127.1", "127.0.1", "0x7f.1", "0X7F.1", "0x7f000001", "2130706433",
    "0177.0.0.1", "017700000001", "127.000.000.001", "127.0.0.1 ", " 127.0.0.1", "127.0.0.1\0.a",
    "[127.0.0.1]", "127.255.255.254", "::1", "[::1]", "[::1]:", "0:0:0:0:0:0:0:1", "::0001",
    "::1%lo", "::ffff:127.0.0.1", "[::FFFF:127.0.0.1]", "::ffff:7f00:1", "::127.0.0.1",
    "::ffff:0:127.0.0.1", "64:ff9b::127.0.0.1", "2002:7f00:1::", "localhost", "localhost.",
    "LOCALHOST", "LocalHost.", "a.localhost", "a.b.LOCALHOST.", "localhost.localdomain",
    "localhost4", "localhost6.localdomain6", "ip6-localhost", "ip6-loopback", "_localdnsstub",
    "127.0.0.1%lo", "localhost\0.example.com",
    "１２７.0.0.1", "127。0。0。1", "ｌocalhost", "①②⑦.0.0.1",  # what IDNA makes ASCII of
]  # fmt: skip
UNSPECIFIED = ["0.0.0.0", "0", "0x0", "0.0", "::", "[::]", "::ffff:0.0.0.0", "0.1.2.3", "", "*"]
METADATA = [
    "169.254.169.254", "169.254.169.254.", "169.254.170.2", "2852039166", "0xa9fea9fe",
    "169.16689662", "::ffff:169.254.169.254", "::ffff:a9fe:a9fe", "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::", "fe80::1", "fe80::1%eth0", "[fe80::1%25eth0]", "FE80::A9FE:A9FE",
    "febf::1", "fd00:ec2::254", "FD00:EC2:0::254", "fd00:ec2::23", "fd20:ce::254",
    "168.63.129.16", "100.100.100.200", "192.0.0.192", "metadata", "metadata.google.internal",
    "METADATA.google.internal.", "metadata.goog", "instance-data", "_gateway",
    "instance-data.ec2.internal", "instance-data.eu-west-1.compute.internal",
]  # fmt: skip
WIDE = ["*:*", "**:*", "*:80", "1*:*", "*1:*", "*.*:*", "*2*:*", "[*:*]:*", "f*:*", "l*:80",
        "*localhost*:*", "m*:80", "*a*:*", "0*:*", "2*:*"]  # fmt: skip


@pytest.mark.parametrize("host", [*LOOPBACK, *UNSPECIFIED, *METADATA])
def test_no_pattern_leads_there_that_does_not_name_it(host: str) -> None:
    assert [pattern for pattern in WIDE if reaches(pattern, host, 80)] == []


@pytest.mark.parametrize(
    ("pattern", "hosts"),
    [
        ("127.0.0.1:*", ["127.0.0.1", "127.0.0.1.", "[127.0.0.1]", "::ffff:127.0.0.1"]),
        ("127.0.0.1:*", ["localhost", "LOCALHOST", "localhost.", "::1", "[::1]"]),
        ("localhost:80", ["localhost", "127.0.0.1", "::1"]),
        ("[::1]:80", ["localhost", "127.0.0.1", "::1", "0:0:0:0:0:0:0:1", "::1%lo"]),
        ("[::ffff:127.0.0.1]:80", ["127.0.0.1"]),
        ("127.*:80", ["127.0.0.1", "127.0.1.1", "::ffff:127.0.0.1"]),
        ("127.1:80", ["127.1"]),
        ("*.localhost:80", ["a.localhost", "A.localhost."]),
        ("169.254.169.254:80", ["169.254.169.254", "::ffff:169.254.169.254"]),
        ("169.254.*:80", ["169.254.169.254"]),
        ("[fe80::1]:80", ["fe80::1", "fe80::1%eth0", "[FE80::1]"]),
        ("[fe80:*]:80", ["fe80::1", "fe80::1%eth0"]),
        ("[fd00:ec2::254]:80", ["fd00:ec2::254"]),
        ("metadata.google.internal:80", ["metadata.google.internal", "Metadata.Google.Internal."]),
        ("0.0.0.0:80", ["0.0.0.0"]),
    ],
)
def test_patterns_lead_to_what_they_name(pattern: str, hosts: list[str]) -> None:
    assert [host for host in hosts if not reaches(pattern, host, 80)] == []


@pytest.mark.parametrize(
    ("pattern", "host", "port", "yes"),
    [
        ("*:*", "db", 5432, True),
        ("*:*", "db.example.com.", 65535, True),
        ("*:*", "10.0.0.1", 0, True),
        ("*:*", "2001:db8::1", 80, True),
        ("*:*", "db", 65536 + 80, False),
        ("*:*", "db", -1, False),
        ("*:*", "a" * 64, 80, False),
        ("*:*", "a." * 127, 80, True),
        ("*:*", "a." * 128, 80, False),
        ("*:*", "a..b", 80, False),
        ("*:*", "a b", 80, False),
        ("*:*", "a\n", 80, False),
        ("*:*", "münchen.example", 80, False),
        ("*:*", "a\udcffb", 80, False),
        ("münchen.example:*", "münchen.example", 80, True),
        ("db:80", "db", 80, True),
        ("db:80", "DB.", 80, True),
        ("DB:80", "db", 80, True),
        ("db:80", "db", 8080, False),
        ("db:80", "db2", 80, False),
        ("db:080", "db", 80, False),
        ("d.b:80", "dxb", 80, False),
        ("db*:80", "db2", 80, True),
        ("*.example.com:443", "a.example.com", 443, True),
        ("*.example.com:443", "example.com", 443, False),
        ("*.example.com:443", "a.example.com.evil.net", 443, False),
        ("a*a:80", "a", 80, False),
        ("a*b*c:80", "a-b-b-c", 80, True),
        ("10.*:22", "10.0.0.1", 22, True),
        ("10.*:22", "::ffff:10.0.0.1", 22, True),
        ("10.*:22", "10.evil.example.net", 22, False),
        ("10.*:22", "10.1", 22, False),
        ("10.0.0.*:22", "10.0.0.1.nip.io", 22, False),
        ("*.5:22", "10.0.0.5", 22, True),
        ("*.5:22", "evil.5", 22, False),
        ("[2001:db8::1]:22", "2001:DB8:0::1", 22, True),
        ("[2001:db8:*]:22", "2001:db8::1", 22, True),
        ("[2001:db8:*]:22", "2001:db9::1", 22, False),
        ("/run/x:80", "/run/x", 80, False),
        ("/*:*", "/run", 80, False),
        ("db", "db", 80, False),
    ],
)
def test_connections(pattern: str, host: str, port: int, yes: bool) -> None:
    assert reaches(pattern, host, port) is yes


@pytest.mark.parametrize(
    ("pattern", "host", "port", "yes"),
    [
        ("*:8080", "localhost", 8080, True),
        ("*:8080", "", 8080, True),
        ("*:8080", "0.0.0.0", 8080, True),
        ("*:8080", "localhost", 8081, False),
        ("*:*", "localhost", 0, True),
        ("*:8080", "localhost", 0, False),
        ("localhost:*", "localhost", 8080, True),
        ("127.0.0.1:*", "localhost", 8080, True),
        ("localhost:*", "", 8080, False),
        ("localhost:*", "0.0.0.0", 8080, False),
        ("localhost:*", "*", 8080, False),
        ("10.*:*", "", 8080, False),
        ("10.*:*", "localhost", 8080, False),
        ("0.0.0.0:*", "0.0.0.0", 8080, True),
        ("0.0.0.0:*", "", 8080, False),
        ("/*:*", "", 8080, False),
    ],
)
def test_listeners(pattern: str, host: str, port: int, yes: bool) -> None:
    assert listens(pattern, host, port) is yes


@pytest.mark.parametrize(
    ("pattern", "path", "yes"),
    [
        ("/run/x.sock", "/run/x.sock", True),
        ("/run/*", "/run/x.sock", True),
        ("/run/*", "/run/user/0/x.sock", True),
        ("/run/*.sock", "/run/.sock", True),
        ("/run/*", "/run/..sock", True),
        ("/run/*", "/run/../etc/x.sock", False),
        ("/run/*", "/run/..", False),
        ("/run/*", "/run/./x", False),
        ("/run/*", "/run//x", False),
        ("/run/*", "/run/x/", False),
        ("/run/*", "/run/", False),
        ("/*", "run/x.sock", False),
        ("/*", "", False),
        ("/*", "\0abstract", False),
        ("/*", "/run/x\0.sock", False),
        ("/*", "/run/x\n", False),
        ("/*", "/run/\udcff", False),
        ("/*", "/" + "x" * (MAX_PATH - 1), True),
        ("/*", "/" + "x" * MAX_PATH, False),
        ("*:*", "/run/x.sock", False),
        ("*", "/run/x.sock", False),
    ],
)
def test_paths(pattern: str, path: str, yes: bool) -> None:
    assert reaches_path(pattern, path) is yes


def test_a_pattern_cannot_be_made_to_take_for_ever() -> None:
    began = time.monotonic()
    assert not reaches("*a" * 100 + "*b:80", ".".join(["a" * 60] * 4), 80)
    assert time.monotonic() - began < 1


PATTERNS = [
    "*:*", "*:80", "**:80", "127.0.0.1:*", "127.0.0.1:80", "127.*:80", "localhost:80",
    "*.localhost:80", "[::1]:80", "10.*:80", "10.0.*:80", "10.0.0.1:80", "10.*.example.com:80",
    "*.example.com:80", "a.*.com:*", "[fe80:*]:80", "[fe80::1]:80", "*1:80", "1*:80", "0.0.0.0:80",
    "/run/*", "/run/x", "/*", "/run/x:80", "/*:*",
]  # fmt: skip
HOSTS = [
    *LOOPBACK, *UNSPECIFIED, *METADATA, "10.0.0.1", "10.0.1.1", "10.a.example.com",
    "a.example.com", "2001:db8::1", "db1", "10.1",
]  # fmt: skip


@pytest.mark.parametrize("wide", PATTERNS)
def test_covering_is_sound(wide: str) -> None:
    for narrow in (pattern for pattern in PATTERNS if covers(wide, pattern)):
        for host in HOSTS:
            for port in (80, 81):
                assert reaches(wide, host, port) or not reaches(narrow, host, port)
                assert listens(wide, host, port) or not listens(narrow, host, port)
        for path in ("/run/x", "/run/y", "/etc/x", "/run/x:80"):
            assert reaches_path(wide, path) or not reaches_path(narrow, path)


@pytest.mark.parametrize(
    ("wide", "narrow", "yes"),
    [
        ("*:*", "10.0.0.1:80", True),
        ("*:*", "*:80", True),
        ("*:*", "10.*:*", True),
        ("*:*", "db:5432", True),
        ("*:*", "localhost:80", False),
        ("*:*", "127.*:80", False),
        ("*:*", "/run/x", False),
        ("/*", "*:*", False),
        ("/run/*", "/run/x", True),
        ("/run/*", "/run/*.sock", True),
        ("/run/*", "/etc/x", False),
        ("*:80", "*:*", False),
        ("10.*:80", "10.0.*:80", True),
        ("10.0.*:80", "10.*:80", False),
        ("10.*:80", "10.*.example.com:80", False),
        ("localhost:80", "127.0.0.1:80", True),
        ("127.*:80", "127.0.0.1:80", False),
        ("127.*:80", "127.0.1.1:80", True),
        ("127.*:80", "127.0.*:80", True),
    ],
)
def test_covering(wide: str, narrow: str, yes: bool) -> None:
    assert covers(wide, narrow) is yes


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_covers_itself(pattern: str) -> None:
    assert covers(pattern, pattern)


@given(
    st.text("*:/[]%.0127afx\0é\udcff", max_size=12),
    st.text() | st.text("*:/[]%.0127afx\0é", max_size=12),
    st.integers(-1, 1 << 32),
)
@example("[]:*", "[]", 1)
def test_anything_is_judged(pattern: str, host: str, port: int) -> None:
    for judge in (reaches, listens):
        assert judge(pattern, host, port) in (True, False)
    assert reaches_path(pattern, host) in (True, False)
    assert covers(pattern, host) in (True, False)
