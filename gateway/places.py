"""What lies where in the state directory. Named here once."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from attrs import frozen


@frozen
class Places:
    """:param state_dir: 0700, the daemon's own"""

    state_dir: Path

    @property
    def control(self) -> Path:
        return self.state_dir / "control.sock"

    @property
    def store(self) -> Path:
        return self.state_dir / "gateway.sqlite"

    @property
    def transcripts(self) -> Path:
        return self.state_dir / "transcripts"

    @property
    def audit(self) -> Path:
        return self.state_dir / "audit"

    @property
    def keys(self) -> Path:
        return self.state_dir / "keys"

    def remains(self) -> Path | None:
        """Something that was made with the keys, if there is anything."""
        written = (root.rglob("*.gwt") for root in (self.transcripts, self.audit))
        found = chain((self.store,), *written)
        return next((path for path in found if path.exists()), None)

    @property
    def ca(self) -> Path:
        """The certificate of the gateway's own CA: clients' ``sslrootcert``."""
        return self.state_dir / "ca.crt"
