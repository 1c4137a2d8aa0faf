"""From a connection that claims a name to an :class:`~gateway.model.Identity`."""

from __future__ import annotations

from attrs import field, frozen

from gateway.contracts import Credentials, Edge
from gateway.errors import BadProof
from gateway.identity.password import mock_verifier
from gateway.model import Identity, Snapshot, User


@frozen
class Authenticators:
    """Implements :class:`gateway.contracts.Prover`.

    :param secret: at least 32 bytes, kept across restarts, so that the salt an unknown user
        is shown never changes
    """

    _secret: bytes = field(repr=False)

    async def prove(self, edge: Edge, name: str, snapshot: Snapshot) -> Identity:
        """Unknown, disabled and passwordless users walk the same path as real ones.

        :raises BadProof: who they are could not be proved
        """
        user = snapshot.users.get(name)
        credentials = self._credentials(name, user)
        try:
            method = await edge.prove(credentials)
        except BadProof as bad:
            raise BadProof(_why(user) or bad.detail) from bad
        if not credentials.enabled or (method == "password" and _passwordless(user)):
            raise BadProof(_why(user))  # even if a mock should ever pass
        return Identity(name, method)

    def _credentials(self, name: str, user: User | None) -> Credentials:
        """The mock is made for everybody: those who need it should not take longer."""
        mock = mock_verifier(name, self._secret, like=user.password if user is not None else None)
        if user is None or user.disabled:
            return Credentials(name, mock, enabled=False)
        return Credentials(name, user.password or mock, user.ssh_keys)


def _passwordless(user: User | None) -> bool:
    return user is None or user.password is None


def _why(user: User | None) -> str:
    """Why nobody could prove to be this one; "" if somebody could."""
    if user is None:
        return "no such user"
    if user.disabled:
        return "the user is disabled"
    return "" if user.password or user.ssh_keys else "the user has no password"
