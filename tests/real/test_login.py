"""Ways to prove who one is, and newer ways to begin: by a libpq of PostgreSQL 17 and later."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trustme
from psycopg.pq import DiagnosticField

from tests.real.conftest import Start, more
from tests.real.programs import BOB, psql
from tests.real.raw import refusal
from tests.real.servers import GatewayProcess, PostgresServer, until

NEWER = pytest.mark.skipif(psycopg.pq.version() < 180000, reason="needs libpq of PostgreSQL 18")


class People:
    """A CA for people, and the files of certificates that it issued."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ca = trustme.CA()
        self.file = directory / "people.crt"
        self._ca.cert_pem.write_to_path(str(self.file))

    def certificate(self, name: str, *alternatives: str) -> dict[str, Any]:
        """Connection settings with a certificate of which *name* is the common name."""
        issued = self._ca.issue_cert(*alternatives or ("irrelevant.test",), common_name=name)
        chain, key = self._directory / f"{name}.crt", self._directory / f"{name}.key"
        issued.cert_chain_pems[0].write_to_path(str(chain))
        issued.private_key_pem.write_to_path(str(key))
        key.chmod(0o600)  # libpq takes no key that others may read
        return {"sslcert": chain, "sslkey": key, "password": "not asked for"}


@pytest.fixture(scope="module")
def people(short_tmp: Path) -> People:
    directory = short_tmp / "people"
    directory.mkdir()
    return People(directory)


@pytest.fixture(scope="module")
def everything(objects: str, postgres: PostgresServer) -> str:
    """One more user, with a password as PostgreSQL keeps it."""
    postgres.sql("CREATE ROLE kept PASSWORD 'as kept'")
    ((verifier,),) = postgres.sql("SELECT rolpassword FROM pg_authid WHERE rolname = 'kept'")
    password = f'{{scram-sha-256: "{verifier}"}}'
    return more(objects, users=f"  - {{name: kept, groups: [analysts], password: {password}}}\n")


@pytest.fixture(scope="module")
def shared(start: Start, people: People, everything: str) -> GatewayProcess:
    return start(f"tls: {{client_ca: {{file: {people.file}}}}}\n", objects=everything)


@pytest.fixture
def gateway(shared: GatewayProcess) -> Iterator[GatewayProcess]:
    yield shared
    shared.call("enable", name="alice")


def who(gateway: GatewayProcess, **over: Any) -> str:
    done = psql(gateway, "SELECT session_user", **over)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# -- certificates ----------------------------------------------------------------------------


def test_a_certificate_by_its_common_name(gateway: GatewayProcess, people: People) -> None:
    assert who(gateway, **people.certificate("alice")) == "app_ro"
    entries = b"".join(path.read_bytes() for path in gateway.state.glob("audit/*.gwt"))
    assert b'"method": "certificate"' in entries


def test_a_certificate_by_its_mail_address(gateway: GatewayProcess, people: People) -> None:
    certificate = people.certificate("somebody else", "alice@example.com")
    told = psql(gateway, "SELECT 1", user="alice@example.com", **certificate)
    assert "authentication failed" in told.stderr  # there is no such user
    assert "authentication failed" in psql(gateway, "SELECT 1", **certificate).stderr


def test_a_certificate_speaks_for_nobody_else(gateway: GatewayProcess, people: People) -> None:
    certificate = people.certificate("alice")
    told = psql(gateway, "SELECT 1", user="bob/app_rw", **certificate)
    assert "authentication failed" in told.stderr
    assert who(gateway, **certificate | BOB) == "app_rw"  # by the password


def test_a_certificate_of_another_ca(gateway: GatewayProcess, tmp_path: Path) -> None:
    told = psql(gateway, "SELECT 1", **People(tmp_path).certificate("alice"))
    assert told.returncode == 2
    assert "FATAL" not in told.stderr  # TLS says it


def test_a_certificate_of_a_disabled_user(gateway: GatewayProcess, people: People) -> None:
    gateway.call("disable", name="alice")
    told = psql(gateway, "SELECT 1", **people.certificate("alice"))
    assert "authentication failed" in told.stderr


# -- passwords -------------------------------------------------------------------------------


def test_a_password_as_postgresql_keeps_it(gateway: GatewayProcess) -> None:
    assert who(gateway, user="kept", password="as kept") == "app_ro"
    said = refusal(gateway, "kept", "another")
    assert said is not None
    assert said.sqlstate == "28P01"


def test_a_password_set_by_the_administrator(gateway: GatewayProcess) -> None:
    done = gateway.cli("passwd", "nobody", "--stdin", input="größer\n")
    assert done.returncode == 0
    assert done.stderr == (
        f"{gateway.objects}: a password of nobody there holds again when it is read next\n"
    )
    for password, sqlstate in (("größer", "28000"), ("nobody's password", "28P01")):
        said = refusal(gateway, "nobody", password)
        assert said is not None
        assert said.sqlstate == sqlstate  # who it is was proved; but nobody may do anything


def test_no_secret_is_told(gateway: GatewayProcess) -> None:
    told = "".join(
        gateway.cli("get", kind, "--format", "json").stdout for kind in ("users", "resources")
    )
    assert "(set)" in told
    stored = gateway.log.encode() + b"".join(
        path.read_bytes() for path in gateway.state.rglob("*") if path.is_file()
    )
    for secret in ("read-write secret", "alice's password", "as kept"):
        assert secret not in told
        assert secret.encode() not in stored


# -- newer beginnings ------------------------------------------------------------------------


@NEWER
def test_direct_tls(gateway: GatewayProcess) -> None:
    with gateway.connect(sslnegotiation="direct") as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


@NEWER
@pytest.mark.parametrize(("version", "number"), [("3.0", 30000), ("3.2", 30002)])
def test_cancel_keys_of_both_protocols(
    gateway: GatewayProcess, postgres: PostgresServer, version: str, number: int
) -> None:
    """Of protocol 3.2 they are long; and this libpq sends them through TLS."""
    only = {"min_protocol_version": version, "max_protocol_version": version}
    with gateway.connect(**only) as connection:
        assert connection.pgconn.full_protocol_version == number
        connection.pgconn.send_query(b"SELECT pg_sleep(60)")
        until(lambda: postgres.runs(connection.info.backend_pid), "the query to run")
        connection.cancel_safe()
        result = connection.pgconn.get_result()
        assert result is not None
        assert result.error_field(DiagnosticField.SQLSTATE) == b"57014"
        assert connection.pgconn.get_result() is None


@NEWER
def test_only_scram_is_asked_for(gateway: GatewayProcess) -> None:
    with gateway.connect(require_auth="scram-sha-256") as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("replication", ["database", "true"])
def test_replication_is_a_right_of_its_own(gateway: GatewayProcess, replication: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="access denied"):
        gateway.connect(replication=replication, **BOB)
