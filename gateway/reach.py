"""A TCP connection to a target, as a :class:`~gateway.wire.Wire`."""

from __future__ import annotations

import asyncio
import socket
from functools import partial

from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.interfaces import IReactorPluggableNameResolver, IReactorTCP
from twisted.internet.protocol import Factory

from gateway.errors import Gone, Refused, Unreachable
from gateway.model import Address
from gateway.wire import Adopt, Wire

FAILURES = (Refused, Gone, OSError, ConnectError, DNSLookupError, TimeoutError)
"""What may come of reaching for a target."""


class IReactor(IReactorTCP, IReactorPluggableNameResolver):
    """What connecting by host name needs of a reactor."""


async def connect(reactor: IReactor, address: Address, seconds: float) -> Wire:
    """To whichever of the host's addresses answers first (RFC 8305).

    :param seconds: until one of them has to have answered
    :raises Unreachable: *address* holds no host name; and any of :data:`FAILURES`
    """
    loop = asyncio.get_running_loop()
    adopted: asyncio.Future[socket.socket] = loop.create_future()
    factory = Factory.forProtocol(partial(Adopt, adopted.set_result))
    factory.noisy = False
    try:
        host = address.host.encode("idna")
        endpoint = HostnameEndpoint(reactor, host, address.port, timeout=seconds)
        await endpoint.connect(factory).asFuture(loop)
    except ValueError as wrong:
        raise Unreachable(f"{address.host} is no host name") from wrong
    except BaseException:
        if adopted.done():  # it was there in the moment in which we gave up
            adopted.result().close()
        raise
    return Wire(adopted.result(), loop)


def words(failed: BaseException) -> str:
    """One of :data:`FAILURES`, for the audit log."""
    if isinstance(failed, Refused):
        return failed.detail
    if isinstance(failed, TimeoutError):
        return "no answer in time"
    if isinstance(failed, Gone):
        return "closed the connection"
    return str(failed) or type(failed).__name__
