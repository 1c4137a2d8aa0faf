"""The demo's directory: what lies in it, and that it is ours alone while we run.

::

    gateway.yaml objects.yaml   written once, then the user's to change
    secrets/                    passwords of accounts and people, one file each; a host key
    keys/                       SSH keys of people
    ssh_config known_hosts      for people's ssh; written at each start
    demo.json                   ports; marks the directory as a demo's
    state/                      the gateway's
    primary/ standby/           PostgreSQL's, each with its .log
    web/                        the home on the SSH target, with its .log beside it
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import socket
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from string import Template

from attrs import field, frozen
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from gateway.config import MAX_SOCKET
from gateway.errors import GatewayError
from gateway.places import Places

USUAL = {
    "gateway": 5432,
    "ssh": 2222,
    "primary": 5433,
    "standby": 5434,
    "web": 2223,
    "diagnostics": 9090,
}
ACCOUNTS = ("app_ro", "app_rw", "standby")
PEOPLE = ("alice", "bob")
HOST_KEY = "web_host_key"
# Bytes. People may type theirs; behind it is a shell of this machine, whose other users see
# the door, too.
ACCOUNTS_RANDOM, PEOPLES_RANDOM = 24, 8

CONFIGURATION = Template("""\
# The demo's gateway. What is changed here holds from the next start of the demo on;
# objects and certificates can be read again at once: kill -HUP, see README.rst.
state_dir: state
listeners:
  - address: 127.0.0.1:$gateway
    protocols: [postgresql]
  - address: 127.0.0.1:$ssh
    protocols: [ssh]
domain: gw.localhost      # psql "host=orders.gw.localhost hostaddr=127.0.0.1 ..." names orders
diagnostics: 127.0.0.1:$diagnostics
drain_seconds: 2          # Ctrl-C ends the demo soon, whoever is logged in
objects: [objects.yaml]   # applied at each start and at SIGHUP
""")

OBJECTS = Template("""\
# Who may reach what. Change it, then: gateway --config .../gateway.yaml apply -f objects.yaml
# Sessions that the new state does not allow end within a second.
resources:
  - name: orders
    protocol: postgresql
    labels: {env: demo}
    database: orders
    targets:
      - {address: "127.0.0.1:$primary"}    # the primary
      - {address: "127.0.0.1:$standby"}    # its standby; the gateway asks which is which
    health: {account: app_ro}    # asks them how they are; it needs no privileges for that
    tls: {mode: disable}    # the embedded PostgreSQL has no TLS; it is on this machine
    accounts:
      - {name: app_ro, password: {file: secrets/app_ro}}
      - {name: app_rw, password: {file: secrets/app_rw}}
  - name: web
    protocol: ssh
    labels: {env: demo}
    targets:
      - {address: "127.0.0.1:$web", host_key: "$host_key"}
    accounts:
      - {name: deploy, certificate: {}}    # made for each session, signed by the gateway

users:
  - name: alice
    groups: [analysts]
    password: {file: secrets/alice}
    ssh_keys: ["$alice"]
  - name: bob
    groups: [ops]
    password: {file: secrets/bob}
    ssh_keys: ["$bob"]

roles:
  - name: reader
    allow:
      - resources: {labels: {env: demo}}
        accounts: [app_ro]
        targets: prefer-standby
        read_only: true
        statement_timeout_seconds: 60
  - name: operator
    allow:
      - resources: {names: [orders]}
        accounts: [app_rw]
        targets: primary
  - name: worker    # shells, commands and files, unless told otherwise
    allow:
      - resources: {names: [web]}
        accounts: [deploy]
  - name: forwarder
    allow:
      - resources: {names: [web]}
        accounts: [deploy]
        ssh: {forward: ["127.0.0.1:*"]}

bindings:
  - {name: analysts-read, role: reader, subjects: [group:analysts]}
  - {name: ops-write, role: operator, subjects: [group:ops]}
  - {name: analysts-work, role: worker, subjects: [group:analysts]}
  - {name: ops-forward, role: forwarder, subjects: [group:ops]}
""")


@frozen
class Directory:
    """:ivar path: absolute
    :ivar lock: a descriptor; as long as any process has it, the directory is in use
    :ivar passwords: by account, and by person
    """

    path: Path
    lock: int
    ports: Mapping[str, int]
    passwords: Mapping[str, str] = field(repr=False)

    @property
    def configuration(self) -> Path:
        return self.path / "gateway.yaml"

    @property
    def objects(self) -> Path:
        return self.path / "objects.yaml"

    @property
    def host_key(self) -> Path:
        """The SSH target's."""
        return self.path / "secrets" / HOST_KEY

    def key(self, person: str) -> Path:
        return self.path / "keys" / person

    def replace(self, name: str, text: str) -> Path:
        """Write the file *name*, which is written at each start."""
        _replace(self.path / name, text)
        return self.path / name


@contextmanager
def opened(path: Path | None) -> Iterator[Directory]:
    """The demo's directory at *path*, made if it is not there; a temporary one if None.

    :raises GatewayError: it is in use, or is something else
    """
    if path is None:
        with _temporary() as place, opened(place) as it:
            yield it
        return
    path = path.absolute()
    _fits(path)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(path) as lock:
        _ours(path)
        path.chmod(0o700)
        ports = _ports(path)
        home = Directory(path, lock, ports, _passwords(path / "secrets"))
        keys = {person: _key(home.key(person)) for person in PEOPLE}
        _write_once(home.configuration, CONFIGURATION.substitute(ports))
        names = {**ports, **keys, "host_key": _key(home.host_key)}
        _write_once(home.objects, OBJECTS.substitute(names))
        yield home


@contextmanager
def _temporary() -> Iterator[Path]:
    """Gone at the end. When something fails it stays, for people to look why."""
    path = Path(tempfile.mkdtemp(prefix="gateway-demo-"))
    try:
        yield path
    except (GatewayError, OSError) as failed:
        raise GatewayError(f"{failed}; what it wrote is kept in {path}") from failed
    except Exception as bug:
        bug.add_note(f"what it wrote is kept in {path}")
        raise
    except BaseException:  # Ctrl-C
        _remove(path)
        raise
    _remove(path)


def _remove(path: Path) -> None:
    """As tempfile does it, which also removes what its owner may not enter."""
    with tempfile.TemporaryDirectory(prefix="gateway-demo-", dir=path.parent) as name:
        path.rename(Path(name) / path.name)


def _fits(path: Path) -> None:
    name = Places(path / "state").control
    if len(os.fsencode(name)) > MAX_SOCKET:
        raise GatewayError(f"{path} is too long a name: {name} has to be a socket")


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _lock(lock, path)
        yield lock
    finally:
        os.close(lock)


def _lock(lock: int, path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise GatewayError(f"{path} is in use by another demo, or by one that is ending") from None


def _ours(path: Path) -> None:
    if any(path.iterdir()) and not (path / "demo.json").exists():
        raise GatewayError(f"{path} is not empty, and no demo made it")


def _passwords(place: Path) -> Mapping[str, str]:
    sizes = {**dict.fromkeys(ACCOUNTS, ACCOUNTS_RANDOM), **dict.fromkeys(PEOPLE, PEOPLES_RANDOM)}
    return {name: _password(place / name, size) for name, size in sizes.items()}


def _password(path: Path, size: int) -> str:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    _write_once(path, secrets.token_hex(size) + "\n")
    return path.read_text().strip()


def _key(path: Path) -> str:
    """The public line of the SSH key at *path*, which is made if it is not there."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    fresh = Ed25519PrivateKey.generate()
    _write_once(
        path, fresh.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    )
    kept = load_ssh_private_key(path.read_bytes(), None).public_key()
    return kept.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _replace(path: Path, text: str) -> None:
    """All of it or nothing: some of these files have been written by people."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    _write_once(fresh, text)
    fresh.replace(path)


def _write_once(path: Path, text: str) -> None:
    with suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w") as file:
            file.write(text)


def _ports(path: Path) -> Mapping[str, int]:
    """Those of the last start, else the usual ones; others where somebody has taken them."""
    file = path / "demo.json"
    before = json.loads(file.read_text())["ports"] if file.exists() else USUAL
    ports: dict[str, int] = {}
    for name, port in before.items():
        ports[name] = port if _free(port) else _another({*before.values(), *ports.values()})
    _replace(file, json.dumps({"ports": ports}, indent=2) + "\n")
    for written in (path / "gateway.yaml", path / "objects.yaml"):
        if written.exists() and ports != before:
            _replace(written, _moved(written.read_text(), before, ports))
    return ports


def _moved(text: str, before: Mapping[str, int], after: Mapping[str, int]) -> str:
    """*text* with the ports changed, and nothing else that somebody wrote in it."""
    now = {str(before[name]): str(after[name]) for name in before}
    pattern = rf"(?<=\b127\.0\.0\.1:)({'|'.join(now)})\b"
    return re.sub(pattern, lambda found: now[found[0]], text)


def _another(taken: Collection[int]) -> int:
    while True:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port: int = probe.getsockname()[1]
        if port not in taken and _free(port):
            return port


def _free(port: int) -> bool:
    """On both loopback addresses: "localhost" is the other one for some."""
    return all(_binds(family, host, port) for family, host in _LOOPBACK)


_LOOPBACK = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


def _binds(family: socket.AddressFamily, host: str, port: int) -> bool:
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)
    except OSError as failed:
        return failed.errno not in (errno.EADDRINUSE, errno.EACCES)  # there may be no IPv6
    return True
