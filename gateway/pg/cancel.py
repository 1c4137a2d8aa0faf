"""Cancel keys: a client's CancelRequest finds the session and the target it is meant for."""

from __future__ import annotations

import hmac
import secrets
from collections import defaultdict
from collections.abc import Awaitable, Callable

from gateway.contracts import CancelKey

Forward = Callable[[], Awaitable[None]]

SHORT = 4  # bytes of a secret in protocol 3.0, where it is one integer
LONG = 32  # bytes in protocol 3.2, which allows 256; 32 cannot be guessed


class CancelKeys:
    """The keys that were given to clients.

    A key carries the target's true process id, which people compare with
    pg_stat_activity, and a secret of our own: process ids of several targets may be equal.
    """

    def __init__(self) -> None:
        self._keys: defaultdict[int, dict[bytes, Forward]] = defaultdict(dict)

    def mint(self, process_id: int, minor: int, forward: Forward) -> CancelKey:
        """A key for a client that speaks protocol 3.*minor*; *forward* is what it sets off."""
        known = self._keys[process_id]
        secret = secrets.token_bytes(LONG if minor >= 2 else SHORT)
        while secret in known:
            secret = secrets.token_bytes(len(secret))
        known[secret] = forward
        return CancelKey(process_id, secret)

    def forget(self, key: CancelKey | None) -> None:
        if key is None:
            return
        known = self._keys.get(key.process_id, {})
        known.pop(key.secret, None)
        if not known:
            self._keys.pop(key.process_id, None)

    async def cancel(self, key: CancelKey) -> None:
        """Set off what *key* is for; nothing for an unknown one, as PostgreSQL does."""
        found = None
        for secret, forward in self._keys.get(key.process_id, {}).items():
            if hmac.compare_digest(secret, key.secret):
                found = forward
        if found is not None:
            await found()
