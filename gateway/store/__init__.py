"""Objects and the session index, in one SQLite file.

``store`` is what the daemon holds open, ``index`` writes session rows in the background,
``reading`` is for a command without a daemon; ``tables`` and ``database`` are what they share.
Nothing here is asked on the path of a connection: that is what the snapshot is for.
"""

from gateway.store.database import StoreUnusable
from gateway.store.reading import read_digests, read_sessions
from gateway.store.store import Bodies, Changes, Conflict, Store
from gateway.store.tables import StoredObject

__all__ = [
    "Bodies",
    "Changes",
    "Conflict",
    "Store",
    "StoreUnusable",
    "StoredObject",
    "read_digests",
    "read_sessions",
]
