"""Gateway: one door in front of databases and servers.

The map of the rooms, in the order in which they may import one another:

=====================  ======================================================="""

from __future__ import annotations

__version__ = "0.1.0"
