"""Gateway: one door in front of databases and servers.

The map of the rooms, in the order in which they may import one another:

====================  =====================================================
``model``             frozen values: who, what, under which terms
``errors``            what can go wrong, and what a peer may hear of it
``contracts``         the protocols between the rooms
``marked, fields``    YAML whose every value knows its line, and is judged
``config, objects``   files -> judged, frozen values (``file:line:column``)
``policy, routing``   pure decisions: may this be; where does it go
``health``            how the targets are: sightings, probes, states
``loginname``         ``user/account#resource``, for every protocol
``record``            transcripts: format, writer, reader, verification
``store, catalog``    objects and the session index (SQLite), and changing them
``identity``          how a person proves who they are
``wire, reach``       a socket, plain or TLS, from or to somewhere
``pg``                PostgreSQL: frames, start-up, SCRAM, edge, dial, pump
``ssh``               SSH: log-in, relay of the connection protocol, edge, dial
``session``           the story: ask -> prove -> decide -> dial -> splice
``live``              what runs now: list, kill, re-check
``doorstep, listen``  doors for clients: PROXY headers, first bytes, limits
``targets, doctor``   what follows from the targets' health; what to do about it
``control``           the door for the ``gateway`` command
``told``              any transcript as events
``app, tap``          the only places where parts are put together
``cli, demo``         the ``gateway`` command; all of it with nothing prepared
``simulation``        routing and health over hundreds of targets, on a virtual clock
====================  =====================================================
"""

from __future__ import annotations

__version__ = "0.1.0"
