"""What the demo prints: lines to paste, each of which works by itself."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from gateway.config import Config
from gateway.demo.directory import PEOPLE, Directory
from gateway.errors import GatewayError
from gateway.model import Address
from gateway.places import Places

EVERYWHERE = {"0.0.0.0", "::", "127.0.0.1", "::1"}  # noqa: S104 -- nothing is bound here
SPECIAL = frozenset('"$`\\!')  # what a shell would not leave alone between double quotes


def lines(home: Directory, configuration: Config) -> Iterator[str]:
    """All of it, when the doors are open."""
    yield f"Gateway serves a demo in {home.path}"
    yield from _databases(configuration)
    yield from _operations(home)
    yield ""
    yield "Ctrl-C stops everything."


def psql(configuration: Config, user: str, password: str) -> str:
    """A shell line that logs *user* in."""
    address = front(configuration)
    target = {
        "host": "localhost" if address.host in EVERYWHERE else address.host,
        "port": str(address.port),
        "user": user,
        "dbname": "orders",
        "sslmode": "verify-full",
        "sslrootcert": str(Places(configuration.state_dir).ca),
    }
    conninfo = " ".join(f"{name}={_value(value)}" for name, value in target.items())
    return f"PGPASSWORD={shlex.quote(password)} psql {_argument(conninfo)}"


def front(configuration: Config) -> Address:
    """Where the first listener for PostgreSQL is.

    :raises GatewayError: there is none
    """
    for listener in configuration.listeners:
        if "postgresql" in listener.protocols:
            return listener.address
    raise GatewayError("the demo needs a listener for postgresql in its gateway.yaml")


def command(path: Path) -> str:
    """The ``gateway`` command as it can be called from a shell here."""
    script = Path(sys.executable).with_name("gateway")
    if not script.exists():
        name = f"{shlex.quote(sys.executable)} -m gateway"
    else:
        found = shutil.which("gateway")
        name = "gateway" if found == str(script) else shlex.quote(str(script))
    return f"{name} --config {shlex.quote(str(path))}"


def _databases(configuration: Config) -> Iterator[str]:
    yield ""
    yield "alice reads, and is led to the standby (password: alice-demo):"
    yield f"  {psql(configuration, 'alice', PEOPLE['alice'])}"
    yield "bob writes, and is led to the primary (password: bob-demo):"
    yield f"  {psql(configuration, 'bob', PEOPLE['bob'])}"
    yield "There are the tables customers and orders."
    if shutil.which("psql") is None:
        yield "(psql is not installed here; Debian has it in postgresql-client.)"


def _operations(home: Directory) -> Iterator[str]:
    gateway = command(home.configuration)
    yield ""
    yield "Who is there, and who was (the first column is the ID that the others take):"
    yield f"  {gateway} sessions"
    yield f"  {gateway} replay ID"
    yield f"  {gateway} watch ID"
    yield f"  {gateway} kill ID --reason 'lunch'"
    yield "Why may somebody do something, or not:"
    yield f"  {gateway} explain alice orders"
    yield f"  {gateway} explain alice orders --account app_rw"
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
