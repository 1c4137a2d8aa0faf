"""The whole thing with nothing prepared: ``gateway demo``.

``run`` tells the story; ``directory`` is what lies on disk, ``postgres`` the embedded
servers, ``web`` the SSH target, whose server is ``shell``, ``processes`` how programs are
started and never left behind, ``supervision`` how servers that were killed come back,
``lines`` what is printed. A further target joins with a file of its own, entered in ``run``
and told in ``lines``. Nothing here runs in the daemon.
"""

from __future__ import annotations

from gateway.demo.run import run

__all__ = ["run"]
