"""Passwords as the gateway keeps them: SCRAM-SHA-256 verifiers (RFC 5802, RFC 5803, RFC 4013).

The form is PostgreSQL's, so a verifier out of pg_authid works here and the other way round.
Salts are passed in; nothing here is random. The only slow step is :func:`derive` (and what
calls it), which callers run in a thread.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import stringprep
import threading
import unicodedata
from collections.abc import Callable

from attrs import define, field, frozen

from gateway.model import ScramVerifier, Secret

DIGEST = 32  # bytes of SHA-256: the length of every key and proof
DEFAULT_ITERATIONS = 4096  # RFC 7677 section 4; what PostgreSQL makes
MAX_ITERATIONS = 1_000_000  # about half a second of CPU; nobody may make us burn more
SALT = 16  # bytes; what PostgreSQL makes
MAX_SALT = 256  # bytes; sixteen times PostgreSQL's

_VERIFIER = re.compile(
    r"SCRAM-SHA-256\$(?P<iterations>[1-9][0-9]{0,6}):(?P<salt>[^$:]+)"
    r"\$(?P<stored>[^$:]+):(?P<server>[^$:]+)"
)


def make_verifier(
    password: str, salt: bytes, iterations: int = DEFAULT_ITERATIONS
) -> ScramVerifier:
    """What to keep of *password*. Slow by design: see :func:`derive`.

    :raises ValueError: no password or salt; iterations out of bounds; no Unicode text
    """
    if not password or not salt or not 1 <= iterations <= MAX_ITERATIONS:
        raise ValueError("a verifier needs a password, a salt and 1 to 1,000,000 iterations")
    keys = derive(Derivation(Secret(_encode(password)), salt, iterations))
    return ScramVerifier(iterations, salt, keys.stored_key, keys.server_key)


def format_verifier(verifier: ScramVerifier) -> str:
    """As PostgreSQL writes it into pg_authid: ``SCRAM-SHA-256$i:salt$StoredKey:ServerKey``."""
    salt, stored, server = map(_b64, (verifier.salt, verifier.stored_key, verifier.server_key))
    return f"SCRAM-SHA-256${verifier.iterations}:{salt}${stored}:{server}"


def parse_verifier(text: str) -> ScramVerifier:
    """The reverse of :func:`format_verifier`.

    :raises ValueError: in words fit to show, without *text*
    """
    match = _VERIFIER.fullmatch(text)
    if match is None:
        raise ValueError("not a SCRAM-SHA-256 verifier as PostgreSQL writes it")
    iterations = int(match["iterations"])
    salt, stored, server = (_unb64(match[part]) for part in ("salt", "stored", "server"))
    if not 1 <= iterations <= MAX_ITERATIONS or not 1 <= len(salt) <= MAX_SALT:
        raise ValueError("the SCRAM-SHA-256 verifier's salt or iteration count is out of bounds")
    if len(stored) != DIGEST or len(server) != DIGEST:
        raise ValueError("the SCRAM-SHA-256 verifier's keys have the wrong length")
    return ScramVerifier(iterations, salt, stored, server)


def matches(verifier: ScramVerifier, password: str) -> bool:
    """Whether *password* is the one behind *verifier*. As slow as :func:`make_verifier`."""
    try:
        made = make_verifier(password, verifier.salt, verifier.iterations)
    except ValueError:
        return False
    return hmac.compare_digest(made.stored_key, verifier.stored_key)


def mock_verifier(user: str, secret: bytes, like: ScramVerifier | None = None) -> ScramVerifier:
    """A verifier which no password passes, always the same for one *user*.

    Its keys are images under HMAC, so a proof would need a preimage under SHA-256.

    :param like: the real verifier of a user who may not log in: its salt and iterations stay
    """
    name = user.encode("utf-8", "surrogateescape")
    salt, stored, server = (
        hmac.digest(secret, label + name, "sha256") for label in (b"salt:", b"stored:", b"server:")
    )
    iterations = DEFAULT_ITERATIONS if like is None else like.iterations
    return ScramVerifier(iterations, salt[:SALT] if like is None else like.salt, stored, server)


@frozen
class Derivation:
    """Work for :func:`derive`: a prepared password, a salt and a number of iterations."""

    password: Secret
    salt: bytes
    iterations: int

    def name(self) -> bytes:
        """What tells two derivations apart, without the password."""
        password = self.password.reveal()
        head = f"{self.iterations}:{len(password)}:".encode()
        return _sha256(head + password + self.salt)


@frozen
class Keys:
    """ClientKey and ServerKey of RFC 5802 section 3."""

    client_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    @property
    def stored_key(self) -> bytes:
        return _sha256(self.client_key)


def derive(work: Derivation) -> Keys:
    """PBKDF2: 1 ms for 4,096 iterations, half a second for a million. Releases the GIL."""
    salted = hashlib.pbkdf2_hmac("sha256", work.password.reveal(), work.salt, work.iterations)
    client, server = (
        hmac.digest(salted, label, "sha256") for label in (b"Client Key", b"Server Key")
    )
    return Keys(client, server)


@define
class KeyCache:
    """Spares repeated log-ins the derivation. Safe to use from several threads."""

    capacity: int = 1024  # keys; two digests each, so about half a megabyte
    _keys: dict[bytes, Keys] = field(factory=dict, repr=False, init=False)
    _lock: threading.Lock = field(factory=threading.Lock, repr=False, init=False)

    def seen(self, work: Derivation) -> Keys | None:
        """The keys, if they need no work."""
        return self._keys.get(work.name())

    def derive(self, work: Derivation) -> Keys:
        """The keys; slow where :meth:`seen` is None."""
        keys = self.seen(work) or derive(work)
        with self._lock:
            self._keys.pop(work.name(), None)
            self._keys[work.name()] = keys
            while len(self._keys) > self.capacity:
                del self._keys[next(iter(self._keys))]
        return keys


def prepared(password: Secret) -> Secret:
    """An account's password as :func:`derive` takes it."""
    return Secret(_encode(password.reveal().decode("utf-8", "surrogateescape")))


def _encode(password: str) -> bytes:
    """The bytes PostgreSQL would hash; undecodable bytes come as surrogate escapes."""
    prepared = saslprep(password)
    try:
        return (password if prepared is None else prepared).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ValueError("a password must be Unicode text") from None


def saslprep(password: str) -> str | None:
    """RFC 4013 as PostgreSQL has it; None where the password is prohibited.

    Pure ASCII is taken as it is, control characters included, and the prohibitions are
    looked for before normalisation.
    """
    if password.isascii():
        return password
    spaced = (" " if stringprep.in_table_c12(char) else char for char in password)
    mapped = "".join(char for char in spaced if not stringprep.in_table_b1(char))
    if not mapped or any(table(char) for char in mapped for table in _PROHIBITED):
        return None
    return unicodedata.normalize("NFKC", mapped) if _bidi_holds(mapped) else None


def _bidi_holds(text: str) -> bool:
    """RFC 3454 section 6."""
    if not any(map(stringprep.in_table_d1, text)):
        return True
    ends = stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
    return ends and not any(map(stringprep.in_table_d2, text))


_PROHIBITED: tuple[Callable[[str], bool], ...] = (
    stringprep.in_table_a1,
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


def _unb64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise ValueError("malformed base64 in the SCRAM-SHA-256 verifier") from None


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
