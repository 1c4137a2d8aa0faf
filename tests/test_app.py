"""The daemon inside this process: begun, broken off, reloaded."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
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


def made(directory: Path, configuration: str = CONFIGURATION) -> Gateway:
    from twisted.internet import reactor

    path = directory / "gateway.yaml"
    path.write_text(configuration)
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
        taken = f"diagnostics: {host}:{port}"
        app = made(tmp_path, CONFIGURATION.replace("diagnostics: 127.0.0.1:0", taken))
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
        apply, reached, go_on = app._apply_objects, asyncio.Event(), asyncio.Event()

        async def hold(files: Sequence[Path]) -> None:
            reached.set()
            await go_on.wait()
            await apply(files)

        app._apply_objects = hold
        first = reloading(app, 8)
        await reached.wait()
        app._apply_objects = apply
        second = reloading(app, 9)
        for _ in range(20):
            await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(first, second)
        assert app._live.most == 9
        await app.stop()
        with pytest.raises(GatewayError, match="draining"):
            await app.reload()


def reloading(app: Gateway, most: int) -> asyncio.Future[None]:
    app._path.write_text(CONFIGURATION.replace("sessions: 7", f"sessions: {most}"))
    return asyncio.ensure_future(app.reload())
