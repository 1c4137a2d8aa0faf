"""Gateway: one door in front of databases and servers.

The map of the rooms, in the order in which they may import one another:

====================  =====================================================
``model``             frozen values: who, what, under which terms
``errors``            what can go wrong, and what a peer may hear of it
``contracts``         the protocols between the rooms
``config, objects``   files -> judged, frozen values (``file:line:column``)
``policy, routing``   pure decisions: may this be; where does it go
``record``            transcripts: format, writer, reader, verification
``store``             objects and the session index (SQLite)
``identity``          how a person proves who they are
``wire``              a socket, plain or TLS, until the splice takes it
``pg``                PostgreSQL: frames, start-up, SCRAM, edge, dial, pump
``session``           the story: ask -> prove -> decide -> dial -> splice
``live``              what runs now: list, kill, re-check
``listen, control``   doors: clients on one side, the ``gateway`` command
                      on the other
``app, tap``          the only places where parts are put together
``cli``               the ``gateway`` command
====================  =====================================================
"""

from __future__ import annotations

__version__ = "0.1.0"
