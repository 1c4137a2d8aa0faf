"""From a connection that claims a name to an :class:`~gateway.model.Identity`."""

from __future__ import annotations

from contextlib import suppress

from attrs import field, frozen

from gateway.contracts import Edge
from gateway.errors import BadProof
from gateway.identity.password import mock_verifier
from gateway.model import Ask, Identity, ScramVerifier, Snapshot, User


@frozen
class Authenticators:
    """Implements :class:`gateway.contracts.Prover`.

    :param secret: at least 32 bytes, kept across restarts, so that the salt an unknown user
        is shown never changes
    """

    _secret: bytes = field(repr=False)

    async def prove(self, edge: Edge, ask: Ask, snapshot: Snapshot) -> Identity:
        """A certificate if it names the user, else a password.

        Unknown, disabled and passwordless users walk the same path as real ones.

        :raises BadProof: who they are could not be proved
        """
        user = snapshot.users.get(ask.user)
        enabled = user is not None and not user.disabled
        if enabled and ask.user in edge.certified_names():
            return Identity(ask.user, "certificate")
        if user is None or user.disabled or user.password is None:
            with suppress(BadProof):
                await edge.password(self._mock(ask.user, user))
            raise BadProof(_why(user))  # even if a mock should ever pass
        await edge.password(user.password)
        return Identity(ask.user, "password")

    def _mock(self, name: str, user: User | None) -> ScramVerifier:
        return mock_verifier(name, self._secret, like=user.password if user else None)


def _why(user: User | None) -> str:
    if user is None:
        return "no such user"
    return "the user is disabled" if user.disabled else "the user has no password"
