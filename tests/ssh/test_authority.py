"""The gateway's SSH keys and certificates, judged by OpenSSH's own programs."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import asyncssh
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway import private
from gateway.errors import BadFile
from gateway.model import SshRights
from gateway.ssh.authority import BACKDATE, HOST_LIFE, USER_LIFE, KeyPair, SshAuthority

NOW = 1_800_000_000.5
FIRST = "ssh_host_ed25519_key"  # to be read
KEYS = ["ssh_host_ca", "ssh_host_ed25519_key", "ssh_host_rsa_key", "ssh_user_ca"]
NOTHING = SshRights(shell=False, exec=False, sftp=False)
ALWAYS = ["permit-pty", "permit-user-rc"]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state") / "keys"


@pytest.fixture(scope="module")
def authority(keys: Path) -> SshAuthority:
    return SshAuthority.open(keys)


def keygen(*args: str, status: int = 0, stdin: bytes = b"") -> str:
    done = subprocess.run(
        ["ssh-keygen", *args],
        input=stdin,
        capture_output=True,
        timeout=30,
        env={"PATH": os.environ["PATH"], "TZ": "UTC"},
    )
    assert done.returncode == status, done.stderr.decode()
    return done.stdout.decode()


def fingerprint(public: str) -> str:
    return keygen("-l", "-f", "-", stdin=public.encode()).split()[1]


def listed(certificate: bytes) -> dict[str, list[str]]:
    """What ``ssh-keygen -L`` says: by its headings, the lines below them."""
    found: dict[str, list[str]] = {}
    lines = keygen("-L", "-f", "-", stdin=certificate).splitlines()
    for line in (line.strip() for line in lines[1:]):
        heading, colon, value = line.partition(": ")
        if colon or line.endswith(":"):
            found[heading.rstrip(":")] = [value] if colon else []
        else:
            found[next(reversed(found))].append(line)
    return found


def valid(certificate: bytes) -> tuple[float, float]:
    match = re.fullmatch(r"from (\S+) to (\S+)", listed(certificate)["Valid"][0])
    assert match is not None
    begin, end = (datetime.fromisoformat(text).replace(tzinfo=UTC) for text in match.groups())
    return begin.timestamp(), end.timestamp()


# -- keys ----------------------------------------------------------------------------------


def test_keys_are_made_once_and_only_ours(keys: Path, authority: SshAuthority) -> None:
    assert sorted(path.name for path in keys.iterdir()) == KEYS
    assert {stat.S_IMODE((keys / name).stat().st_mode) for name in KEYS} == {0o600}
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700
    before = {name: (keys / name).read_bytes() for name in KEYS}
    again = SshAuthority.open(keys)
    assert {name: (keys / name).read_bytes() for name in KEYS} == before
    assert again.user_ca_line() == authority.user_ca_line()
    assert again.host_ca_line() == authority.host_ca_line()
    assert len({fingerprint(keygen("-y", "-f", str(keys / name))) for name in KEYS}) == 4


def test_secrets_do_not_show(authority: SshAuthority) -> None:
    assert repr(authority) == "SshAuthority()"
    pair = authority.mint("deploy", "01ab", NOTHING, NOW)
    assert b"PRIVATE" in pair.private_key
    assert "PRIVATE" not in repr(pair)


def spoil(path: Path) -> None:
    private.replace(path, b"junk")


def let_others_read(path: Path) -> None:
    path.chmod(0o640)


def cut(path: Path) -> None:
    private.replace(path, path.read_bytes()[:150])


def empty(path: Path) -> None:
    private.replace(path, b"")


def become_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir(mode=0o700)


def put(path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    data = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    private.replace(path, data)


def become_ecdsa(path: Path) -> None:
    put(path, ec.generate_private_key(ec.SECP256R1()))


def become_pem(path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    private.replace(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def need_a_passphrase(path: Path, *options: str) -> None:
    made = path.with_name("made")
    keygen("-q", "-t", "ed25519", "-N", "secret", "-f", str(made), *options)
    made.replace(path)


def use_an_odd_cipher(path: Path) -> None:
    need_a_passphrase(path, "-Z", "aes128-cbc")


UNUSABLE = "is not a private key that can be used"


@pytest.mark.parametrize(
    ("harm", "name", "words"),
    [
        *((spoil, name, UNUSABLE) for name in KEYS),
        (cut, FIRST, UNUSABLE),
        (empty, FIRST, UNUSABLE),
        (become_pem, FIRST, UNUSABLE),
        (need_a_passphrase, FIRST, UNUSABLE),
        (use_an_odd_cipher, FIRST, UNUSABLE),
        (let_others_read, FIRST, "chmod 600"),
        (let_others_read, "ssh_host_ca", "chmod 600"),
        (become_a_directory, FIRST, "cannot be read"),
        (become_ecdsa, FIRST, "is not an Ed25519 key"),
        (become_ecdsa, "ssh_host_rsa_key", "is not an RSA key"),
    ],
)
def test_what_is_wrong_with_a_key_is_told(
    authority: SshAuthority, keys: Path, tmp_path: Path, harm: object, name: str, words: str
) -> None:
    copy(keys, tmp_path)
    assert callable(harm)
    harm(tmp_path / "keys" / name)
    with pytest.raises(BadFile, match=rf"{name}:1:1: .*{words}"):
        SshAuthority.open(tmp_path / "keys")


def copy(keys: Path, state: Path) -> None:
    private.directory(state / "keys")
    for name in KEYS:
        private.replace(state / "keys" / name, (keys / name).read_bytes())


def test_kinds_of_keys_are_not_exchanged(keys: Path, authority: SshAuthority, tmp_path) -> None:
    state = tmp_path / "keys"
    private.directory(state)
    private.replace(state / "ssh_host_ed25519_key", (keys / "ssh_host_rsa_key").read_bytes())
    with pytest.raises(BadFile, match="is not an Ed25519 key"):
        SshAuthority.open(state)
    (state / "ssh_host_ed25519_key").unlink()
    private.replace(state / "ssh_host_rsa_key", (keys / "ssh_user_ca").read_bytes())
    with pytest.raises(BadFile, match="is not an RSA key"):
        SshAuthority.open(state)
    put(state / "ssh_host_rsa_key", rsa.generate_private_key(65537, 1024))
    with pytest.raises(BadFile, match="of 2048 bits or more"):
        SshAuthority.open(state)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None
)
@given(st.data())
def test_a_damaged_key_is_refused_or_whole(
    keys: Path, authority: SshAuthority, tmp_path: Path, data: st.DataObject
) -> None:
    good = (keys / FIRST).read_bytes()
    at = data.draw(st.integers(0, len(good) - 1))
    bad = good[:at] + data.draw(st.binary(max_size=3)) + good[at + data.draw(st.integers(0, 3)) :]
    if not (tmp_path / "keys").exists():
        copy(keys, tmp_path)
    (tmp_path / "keys" / FIRST).write_bytes(bad)
    with suppress(BadFile):
        SshAuthority.open(tmp_path / "keys").host_pairs({"gw"}, NOW)


# -- host certificates ---------------------------------------------------------------------


def test_host_certificates(authority: SshAuthority, tmp_path: Path) -> None:
    pairs = authority.host_pairs({"web.gw.example.com", "gw", "10.0.0.1"}, NOW)
    signer = fingerprint(authority.host_ca_line().removeprefix("@cert-authority * "))
    kinds = []
    for pair in pairs:
        said = listed(pair.certificate)
        kinds.append(said["Type"][0])
        assert said["Signing CA"][0].startswith(f"ED25519 {signer} ")
        assert said["Key ID"] == ['"gateway"']
        assert said["Principals"] == ["10.0.0.1", "gw", "web.gw.example.com"]
        assert said["Critical Options"] == ["(none)"]
        assert said["Extensions"] == ["(none)"]
        begin, end = valid(pair.certificate)
        assert (begin, end) == (int(NOW - BACKDATE), int(NOW + HOST_LIFE))
        belongs(pair, tmp_path)
    assert kinds == [
        "ssh-ed25519-cert-v01@openssh.com host certificate",
        "ssh-rsa-cert-v01@openssh.com host certificate",
    ]


def belongs(pair: KeyPair, directory: Path) -> None:
    """The certificate is on the public half of the key, and asyncssh takes both."""
    private.directory(directory / "keys")
    private.replace(directory / "keys" / "key", pair.private_key)
    public = keygen("-y", "-f", str(directory / "keys" / "key"))
    said = listed(pair.certificate)
    assert said["Public key"][0].split()[-1] == fingerprint(public)
    certificate = asyncssh.import_certificate(pair.certificate)
    assert certificate.key.public_data == asyncssh.import_private_key(pair.private_key).public_data


def test_a_host_is_somebody(authority: SshAuthority) -> None:
    """A certificate without principals would be good for every host."""
    with pytest.raises(TypeError, match="principals"):
        authority.host_pairs(frozenset(), NOW)


@pytest.mark.parametrize("host", ["web.gw.example.com", "web", "[gw.example.com]:2222"])
def test_the_line_for_known_hosts(authority: SshAuthority, tmp_path: Path, host: str) -> None:
    known = tmp_path / "known_hosts"
    known.write_text(f"# mine\nother ssh-ed25519 AAAA\n{authority.host_ca_line()}\n")
    found = keygen("-F", host, "-f", str(known))
    assert f"# Host {host} found: line 3 CA" in found
    assert authority.host_ca_line() in found


# -- user certificates ---------------------------------------------------------------------


def test_a_minted_certificate(authority: SshAuthority, tmp_path: Path) -> None:
    pair = authority.mint("deploy", "01abcdef", NOTHING, NOW)
    said = listed(pair.certificate)
    signer = fingerprint(authority.user_ca_line())
    assert said["Type"] == ["ssh-ed25519-cert-v01@openssh.com user certificate"]
    assert said["Signing CA"][0].startswith(f"ED25519 {signer} ")
    assert said["Key ID"] == ['"gateway 01abcdef"']
    assert said["Principals"] == ["deploy"]
    assert said["Critical Options"] == ["(none)"]
    assert said["Extensions"] == ALWAYS
    assert valid(pair.certificate) == (int(NOW - BACKDATE), int(NOW + USER_LIFE))
    belongs(pair, tmp_path)


@pytest.mark.parametrize(
    ("rights", "extensions"),
    [
        (SshRights(), ALWAYS),
        (SshRights(agent=True), ["permit-agent-forwarding", *ALWAYS]),
        (SshRights(x11=True), ["permit-X11-forwarding", *ALWAYS]),
        (SshRights(forward=("*:*",)), ["permit-port-forwarding", *ALWAYS]),
        (
            SshRights(agent=True, x11=True, forward=("/run/*",)),
            ["permit-X11-forwarding", "permit-agent-forwarding", "permit-port-forwarding", *ALWAYS],
        ),
    ],
)
def test_extensions_follow_rights(
    authority: SshAuthority, rights: SshRights, extensions: list[str]
) -> None:
    pair = authority.mint("deploy", "01ab", rights, NOW)
    assert sorted(listed(pair.certificate)["Extensions"]) == sorted(extensions)


def test_each_certificate_is_another(authority: SshAuthority) -> None:
    one, two = (authority.mint("deploy", "01ab", NOTHING, NOW) for _ in range(2))
    assert one.private_key != two.private_key
    assert listed(one.certificate)["Serial"] != listed(two.certificate)["Serial"]


def test_the_two_authorities_are_not_one(authority: SshAuthority) -> None:
    user, host = authority.user_ca_line(), authority.host_ca_line()
    assert user.split()[1] != host.split()[3]
    assert user.endswith(" gateway user CA")
    assert host.startswith("@cert-authority * ssh-ed25519 ")


def test_accounts_that_are_odd_stay_one_principal(authority: SshAuthority) -> None:
    pair = authority.mint("déploy,root", "01ab", NOTHING, NOW)
    certificate = asyncssh.import_certificate(pair.certificate)
    assert certificate.principals == ["déploy,root"]
