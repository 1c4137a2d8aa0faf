"""The SSH target ``web``, and the files with which OpenSSH's clients find the way to it.

The server (:mod:`gateway.demo.shell`) is a process of its own and runs as whoever started the
demo; as root, as PostgreSQL's user. Whom it lets in runs programs on this machine.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.demo.directory import Directory
from gateway.demo.postgres import ENVIRONMENT, Programs
from gateway.demo.processes import Child, Launch, listens, serving
from gateway.model import Address
from gateway.ssh.authority import SshAuthority

ACCOUNT = "deploy"
JUMP = "gateway"  # alice's alias for what she jumps through

HOST = """\
Host {alias}
    HostName {host}
    Port {port}
    User {user}
    IdentityFile {key}

"""
EVERY = """\
Host *
    UserKnownHostsFile {known}
    StrictHostKeyChecking yes
    IdentitiesOnly yes
"""


@asynccontextmanager
async def target(
    home: Directory, authority: SshAuthority, programs: Programs
) -> AsyncIterator[Child]:
    """Run it; the block begins when it takes connections."""
    place = home.path / "web"
    if not place.exists():
        programs.own(place)
    programs.let_through(home.path)  # "pwd" is a real name then, if no directory above objects
    # -P: not what people have put into the home
    command = [sys.executable, "-P", "-m", "gateway.demo.shell", "--port", str(home.ports["web"])]
    command += ["--host-key", str(home.host_key), "--trusted", authority.user_ca_line()]
    command += ["--account", ACCOUNT]
    if programs.owner is not None:
        command += ["--user", programs.owner.pw_name]
    launch = Launch(tuple(command), place, home.lock, ENVIRONMENT)
    log = home.path / "web.log"
    async with serving("the SSH server", launch, log, signal.SIGTERM) as child:
        await child.until(lambda: listens("127.0.0.1", home.ports["web"]))
        yield child


def client_files(home: Directory, address: Address, authority: SshAuthority) -> None:
    """``known_hosts``, as ``gateway ca hosts`` prints it, and ``ssh_config``.

    :param address: the gateway's, as people reach it
    """
    known = home.replace("known_hosts", authority.host_ca_line() + "\n")
    text = "# ssh -F, scp -F, sftp -F. Written at each start of the demo.\n"
    for alias, user, person in (
        ("web", "alice#web", "alice"),
        ("web-bob", "bob#web", "bob"),
        (JUMP, "alice", "alice"),
    ):
        text += HOST.format(
            alias=alias,
            host=address.host,
            port=address.port,
            user=user,
            key=value(home.key(person)),
        )
    home.replace("ssh_config", text + EVERY.format(known=value(known)))


def value(path: Path) -> str:
    """As ssh_config(5) reads the name of a file."""
    text = str(path).replace("%", "%%")
    if not set(text) & set(" \t\"'\\#="):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
