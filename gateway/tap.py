"""The twistd plug-in's two halves: what it can be told, and the service it makes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from twisted.application.service import IService, Service
from twisted.internet import defer
from twisted.logger import Logger
from twisted.python import usage

from gateway import config
from gateway.errors import BadFile, GatewayError

EX_CONFIG = 78  # sysexits.h; the command line uses the same

log = Logger()


def _choose_reactor() -> None:
    """asyncio's, unless another one is installed already: then there is nothing to save.

    ``twist`` installs its default only after options were parsed, so this is early enough.
    """
    if "twisted.internet.reactor" not in sys.modules:
        from twisted.internet import asyncioreactor

        asyncioreactor.install()
    from twisted.internet import reactor
    from twisted.internet.asyncioreactor import AsyncioSelectorReactor

    if not isinstance(reactor, AsyncioSelectorReactor):
        raise usage.UsageError("gateway runs on the asyncio reactor; leave --reactor out")


def _too_early(number: int, frame: object) -> None:
    """What is to be read again has yet to be read; SIGHUP by itself would end the process."""


class Options(usage.Options):
    """Options of ``twist gateway``."""

    synopsis = "[--config FILE]"
    optParameters = [  # noqa: RUF012 -- usage.Options reads it off the class
        [
            "config",
            None,
            None,
            "configuration file (default: $GATEWAY_CONFIG or /etc/gateway/gateway.yaml)",
        ],
    ]

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        signal.signal(signal.SIGHUP, _too_early)
        _choose_reactor()

    def postOptions(self) -> None:
        try:
            self["path"] = path = config.locate(self["config"], os.environ)
            self["configuration"] = config.load(path)
        except BadFile as bad:
            for problem in bad.problems:
                print(problem, file=sys.stderr)
            raise SystemExit(EX_CONFIG) from None


def _give_up(code: int) -> None:
    asyncio.get_running_loop().call_soon(sys.exit, code)


class GatewayService(Service):
    """Runs a :class:`gateway.app.Gateway` for as long as the reactor does."""

    def __init__(self, path: Path, configuration: config.Config) -> None:
        self._path = path
        self._configuration = configuration
        self._starting: asyncio.Future[None] | None = None
        self._app: Any = None

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        from twisted.internet import reactor

        # The asyncio loop runs only once the reactor does.
        reactor.callWhenRunning(reactor.callLater, 0, self._begin)

    def _begin(self) -> None:
        from twisted.internet import reactor

        self._starting = asyncio.ensure_future(self._start(cast("Any", reactor)))
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hang_up)

    async def _start(self, reactor: Any) -> None:
        try:
            from gateway.app import Gateway

            self._app = Gateway(reactor, self._path, self._configuration)
            await self._app.start()
        except GatewayError as failed:
            log.error("Cannot start: {why}", why=str(failed))
            print(failed, file=sys.__stderr__)  # Twisted's own goes to the log
            _give_up(EX_CONFIG if isinstance(failed, BadFile) else 1)
        except Exception:
            log.failure("Cannot start")
            _give_up(1)

    def _hang_up(self) -> None:
        self._reloading = asyncio.ensure_future(self._reload())

    async def _reload(self) -> None:
        assert self._starting is not None
        await asyncio.wait([self._starting])
        with suppress(GatewayError):  # logged, and all stays as it was
            await self._app.reload()

    def stopService(self) -> defer.Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]
        return defer.Deferred.fromFuture(asyncio.ensure_future(self._stop()))

    async def _stop(self) -> None:
        if self._app is not None:
            await self._app.stop()
        elif self._starting is not None:
            self._starting.cancel()  # it has not begun


def makeService(options: Options) -> IService:
    return GatewayService(options["path"], options["configuration"])
