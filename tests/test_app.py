"""The daemon inside this process: begun, broken off, reloaded."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway import config
from gateway.app import Gateway
from gateway.errors import GatewayError
from tests.leaks import nothing_left
from tests.pg.targets import until
from tests.support import asyncio_test

CONFIGURATION = """\
state_dir: state
listeners:
  - {address: 127.0.0.1:0, protocols: [postgresql, ssh]}
diagnostics: 127.0.0.1:0
limits: {sessions: 7}
"""


def made(directory: Path) -> Gateway:
    from twisted.internet import reactor

    path = directory / "gateway.yaml"
    path.write_text(CONFIGURATION)
    twisted: Any = reactor
    return Gateway(twisted, path, config.load(path))


@pytest.mark.parametrize(
    "milestone", ["", "control.lock", "audit", "gateway.sqlite", "keys/ssh_user_ca", "control.sock"]
)
@asyncio_test
async def test_whoever_is_stopped_while_it_starts_leaves_nothing_open(
    milestone: str, tmp_path: Path
) -> None:
    async with nothing_left():
        app = made(tmp_path)
        starting = asyncio.ensure_future(app.start())
        await until((tmp_path / "state" / milestone).exists)
        await app.stop()
        await starting
        assert app._readiness() == "draining"
        again = made(tmp_path)
        await again.start()
        await again.stop()


@asyncio_test
async def test_an_address_that_is_taken(tmp_path: Path) -> None:
    """Whatever was opened before it is closed again."""
    async with nothing_left():
        server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        app = made(tmp_path)
        (tmp_path / "gateway.yaml").write_text(
            CONFIGURATION.replace("diagnostics: 127.0.0.1:0", f"diagnostics: {host}:{port}")
        )
        app = Gateway(app._reactor, app._path, config.load(app._path))
        with pytest.raises(GatewayError, match="cannot listen: "):
            await app.start()
        await app.stop()
        server.close()
        await server.wait_closed()


@asyncio_test
async def test_the_last_of_two_reloads_holds(tmp_path: Path) -> None:
    """Each is done whole, also if another one is asked for meanwhile."""
    async with nothing_left():
        app = made(tmp_path)
        await app.start()
        reloads = []
        for most in (8, 9):
            app._path.write_text(CONFIGURATION.replace("sessions: 7", f"sessions: {most}"))
            reloads.append(asyncio.ensure_future(app.reload()))
            await asyncio.sleep(0)
        await asyncio.gather(*reloads)
        assert app._live.most == 9
        await app.stop()
