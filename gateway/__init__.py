"""Gateway: one door in front of databases and servers.

The map of the rooms, in the order in which they may import one another:

=====================  ==============================================================
``model, errors``      frozen values: who, what, under which terms; what can go wrong
``contracts``          the protocols between the rooms
``places, private``    what lies where on the disk; files that hold secrets
``marked, fields``     YAML whose every value knows its line, and is judged
``config``             its files -> judged, frozen values (``file:line:column``)
``hours, forwards``    when a binding holds; where SSH may forward to
``terms, policy``      which terms give more; may this be
``routing, explain``   where does it go; why it came out so
``identity``           how a person proves who they are
``loginname``          ``user/account#resource``, for every protocol
``objects``            resources, users, roles, bindings: files -> judged values
``record``             transcripts: format, writer, reader, verification
``store, catalog``     objects and the session index (SQLite), and changing them
``vault, audit``       sealed secrets; the log of what happened to the gateway
``ca, certificates``   certificates of our own; TLS on both sides
``wire, reach``        a socket, plain or TLS, from or to somewhere
``health``             how the targets are: sightings, probes, states
``pg``                 PostgreSQL: frames, start-up, SCRAM, edge, dial, pump
``ssh``                SSH: log-in, relay of the connection protocol, edge, dial
``told, show``         any transcript as events, and as people see it
``live``               what runs now: list, kill, re-check
``targets, doctor``    what follows from the targets' health; what to do about it
``session``            the story: ask -> prove -> decide -> dial -> splice
``greeting``           which protocol the first bytes speak
``proxyheader``        what a proxy in front says of the client
``doorstep, listen``   doors for clients: headers, first bytes, limits
``diagnostics``        ``/livez``, ``/readyz``, ``/metrics``
``control, commands``  the door for the ``gateway`` command, and what it may ask
``app, tap``           the only places where parts are put together
``demo, cli``          all of it with nothing prepared; the ``gateway`` command
``simulation``         routing and health over hundreds of targets, on a virtual clock
=====================  ==============================================================
"""

from __future__ import annotations

__version__ = "0.1.0"
