"""What the demo prints: lines to paste, each of which works by itself."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from gateway.config import Config
from gateway.demo.directory import Directory
from gateway.demo.web import ACCOUNT, JUMP, value
from gateway.errors import GatewayError
from gateway.model import Address
from gateway.places import Places

DOORS = ("postgresql", "ssh")  # the demo shows each
EVERYWHERE = {"0.0.0.0", "::", "127.0.0.1", "::1"}  # noqa: S104 -- nothing is bound here
SPECIAL = frozenset('"$`\\!')  # what a shell would not leave alone between double quotes


def lines(home: Directory, configuration: Config) -> Iterator[str]:
    """All of it, when the doors are open."""
    yield f"Gateway serves a demo in {home.path}"
    yield from _databases(home, configuration)
    yield from _servers(home, configuration)
    yield from _failover(home)
    yield from _operations(home)
    yield ""
    yield "Ctrl-C stops everything."


def psql(configuration: Config, user: str, password: str) -> str:
    """A shell line that logs *user* in."""
    address = reached(configuration, "postgresql")
    target = {
        "host": address.host,
        "port": str(address.port),
        "user": user,
        "dbname": "orders",
        "sslmode": "verify-full",
        "sslrootcert": str(Places(configuration.state_dir).ca),
    }
    conninfo = " ".join(f"{name}={_value(value)}" for name, value in target.items())
    return f"PGPASSWORD={shlex.quote(password)} psql {_argument(conninfo)}"


def front(configuration: Config, protocol: str) -> Address:
    """Where the first listener for *protocol* is.

    :raises GatewayError: there is none
    """
    for listener in configuration.listeners:
        if protocol in listener.protocols:
            return listener.address
    raise GatewayError(f"the demo needs a listener for {protocol} in its gateway.yaml")


def reached(configuration: Config, protocol: str) -> Address:
    """The same as people here reach it, by a name that the gateway certifies."""
    address = front(configuration, protocol)
    return Address("localhost" if address.host in EVERYWHERE else address.host, address.port)


def command(path: Path) -> str:
    """The ``gateway`` command as it can be called from a shell here."""
    script = Path(sys.executable).with_name("gateway")
    if not script.exists():
        name = f"{shlex.quote(sys.executable)} -m gateway"
    else:
        found = shutil.which("gateway")
        name = "gateway" if found == str(script) else shlex.quote(str(script))
    return f"{name} --config {shlex.quote(str(path))}"


def _databases(home: Directory, configuration: Config) -> Iterator[str]:
    alice, bob = home.passwords["alice"], home.passwords["bob"]
    yield ""
    yield f"PostgreSQL. alice reads, and is led to the standby (password: {alice}):"
    yield f"  {psql(configuration, 'alice', alice)}"
    yield f"bob writes, and is led to the primary (password: {bob}):"
    yield f"  {psql(configuration, 'bob', bob)}"
    yield "There are the tables customers and orders."
    if shutil.which("psql") is None:
        yield "(psql is not installed here; Debian has it in postgresql-client.)"


def _servers(home: Directory, configuration: Config) -> Iterator[str]:
    address = reached(configuration, "ssh")
    config = shlex.quote(str(home.path / "ssh_config"))
    known = shlex.quote(f"UserKnownHostsFile={value(home.path / 'known_hosts')}")
    file = shlex.quote(str(home.objects))
    yield ""
    yield "SSH. A shell of alice's on the server web; her key is in the demo's directory:"
    yield f"  ssh -F {config} web"
    yield "The same with her password:"
    yield f"  ssh -p {address.port} -o {known} 'alice#web@{address.host}'"
    yield "Files, there and back; scp takes a # in a user name only like this:"
    yield f"  scp -F {config} {file} web:"
    yield f"  scp -F {config} web:objects.yaml copied.yaml"
    yield f"  scp -P {address.port} -o {known} -o 'User=alice#web' {file} {address.host}:"
    yield f"  sftp -F {config} web"
    # OpenSSH hands the name of its configuration on to the inner ssh as it is, for a shell.
    if configuration.domain is not None and config == str(home.path / "ssh_config"):
        yield "With the gateway as jump host, recorded like the others:"
        yield f"  ssh -F {config} -J {JUMP} {ACCOUNT}@web.{configuration.domain}"
    yield "bob may also forward ports, such as the gateway's own http://localhost:8080/metrics:"
    yield f"  ssh -F {config} -N -L 8080:127.0.0.1:{home.ports['diagnostics']} web-bob"
    if shutil.which("ssh") is None:
        yield "(ssh is not installed here; Debian has it in openssh-client.)"


def _failover(home: Directory) -> Iterator[str]:
    gateway = command(home.configuration)
    pid = shlex.quote(str(home.path / "standby" / "postmaster.pid"))
    yield ""
    yield "Failover. Kill or drain the standby while alice is logged in: her session goes on at the"
    yield "primary, and what was killed is started again."
    yield f"  {gateway} targets"
    yield f"  kill -9 $(head -n 1 {pid})"
    yield f"  {gateway} targets drain 127.0.0.1:{home.ports['standby']}    # undrain: takes it back"
    yield f"  {gateway} audit --since 5m    # session.moved; replay, below, has it too"


def _operations(home: Directory) -> Iterator[str]:
    gateway = command(home.configuration)
    yield ""
    yield "Who is there, and who was (the first column is the ID that the others take):"
    yield f"  {gateway} sessions"
    yield f"  {gateway} replay ID    # plays terminals: space pauses, q quits"
    yield f"  {gateway} watch ID"
    yield f"  {gateway} kill ID --reason 'lunch'"
    yield "Why may somebody do something, or not:"
    yield f"  {gateway} explain alice orders"
    yield f"  {gateway} explain alice orders --account app_rw"
    yield f"  {gateway} explain bob web"
    yield "Has anybody altered a transcript:"
    yield f"  {gateway} verify --all"
    yield "Change who may do what, and see it happen at once:"
    yield f"  {gateway} apply -f {shlex.quote(str(home.objects))}"


def _value(text: str) -> str:
    """As libpq reads the value of a keyword."""
    if text and not set(text) & set(" '\\"):
        return text
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _argument(text: str) -> str:
    return shlex.quote(text) if set(text) & SPECIAL else f'"{text}"'
