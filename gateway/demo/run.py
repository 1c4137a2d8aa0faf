"""The story of the demo: directory, servers, gateway, lines; and all of it back again."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path

from gateway import config, objects
from gateway.config import Config
from gateway.demo.directory import Directory, opened
from gateway.demo.lines import DOORS, front, lines, reached
from gateway.demo.postgres import REPLICATION, Programs, Server, programs
from gateway.demo.processes import Child, Failed, Launch, listens, serving
from gateway.demo.supervision import Serve, kept_up
from gateway.demo.web import client_files, target
from gateway.places import Places
from gateway.ssh.authority import SshAuthority

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # SIGHUP: its terminal was closed


def run(directory: Path | None) -> int:
    """Serve from *directory* (None: a temporary one) until told to stop; the exit code.

    :raises GatewayError: it could not begin, or the gateway ended by itself
    """
    asyncio.run(_until_told(_demo(directory)))
    return 0


async def _until_told(work: Coroutine[None, None, None]) -> None:
    """Run *work*; a signal cancels it, once, and it gets the time to clean up."""
    told = asyncio.Event()
    for number in STOPPING:
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    working, waiting = asyncio.ensure_future(work), asyncio.ensure_future(told.wait())
    await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if told.is_set():
        _tell("stopping ...")
    waiting.cancel()
    working.cancel()
    with suppress(asyncio.CancelledError):
        await working


async def _demo(directory: Path | None) -> None:
    with opened(directory) as home, programs(home.lock) as postgresql, _log_told():
        configuration = _judged(home)
        # The gateway would make its keys itself; what the target trusts has to be there first.
        authority = await asyncio.to_thread(SshAuthority.open, Places(configuration.state_dir).keys)
        client_files(home, reached(configuration, "ssh"), authority)
        async with AsyncExitStack() as parts:
            await _databases(parts, home, postgresql)
            _tell("... an SSH server ...")
            await _keep(parts, partial(target, home, authority, postgresql))
            gateway = await parts.enter_async_context(_gateway(home, configuration))
            print("\n".join(lines(home, configuration)), flush=True)
            await gateway.ended()


def _judged(home: Directory) -> Config:
    """What people may have changed; looked at before anything is started.

    :raises GatewayError: it has mistakes
    """
    configuration = config.load(home.configuration)
    for listed in configuration.objects:
        objects.read(listed)
    for protocol in DOORS:
        front(configuration, protocol)
    return configuration


async def _databases(parts: AsyncExitStack, home: Directory, postgresql: Programs) -> None:
    primary, standby = (
        Server(postgresql, home.path, name, home.ports[name]) for name in ("primary", "standby")
    )
    password = home.passwords[REPLICATION]
    _tell("PostgreSQL, a primary ...")
    await primary.create(home.passwords)
    await _keep(parts, primary.serving)
    _tell("... and its standby ...")
    await standby.copy(primary, password)
    await _keep(parts, partial(standby.serving, **standby.follows(primary, password)))


async def _keep(parts: AsyncExitStack, serve: Serve) -> None:
    await parts.enter_async_context(kept_up(serve, _tell))


@asynccontextmanager
async def _gateway(home: Directory, configuration: Config) -> AsyncIterator[Child]:
    """The daemon as everybody runs it, with its log beside it."""
    _tell("... and the gateway in front of them.")
    path = str(home.configuration)
    # -P: not what happens to lie in the current directory
    twist = (sys.executable, "-P", "-m", "twisted", "--log-format=text")
    launch = Launch((*twist, "gateway", "--config", path), home.path, home.lock, os.environ)
    log = home.path / "gateway.log"
    async with serving("the gateway", launch, log, signal.SIGTERM) as child:
        await child.until(lambda: _opens(configuration))
        yield child


async def _opens(configuration: Config) -> bool:
    """The doors are what the gateway opens last."""
    for protocol in DOORS:
        address = front(configuration, protocol)
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)  # noqa: S104
        if not await listens(host, address.port):
            return False
    return True


@contextmanager
def _log_told() -> Iterator[None]:
    """Of a program that fails, the end of its log."""
    try:
        yield
    except Failed as failed:
        for line in failed.log:
            _tell(f"  {line}")
        raise


def _tell(text: str) -> None:
    with suppress(OSError):  # nobody is left to read it: the terminal was closed
        print(text, file=sys.stderr, flush=True)
