"""Resources, users, roles and bindings: from what somebody wrote to what policy asks.

``schema`` is what an objects file may say; ``parse`` judges a file; ``settle`` reads secrets
and seals them, which makes the body that is stored; ``references`` finds names that lead
nowhere; ``values`` makes the snapshot of stored bodies.
"""

from gateway.objects.parse import json_schema, parse, read
from gateway.objects.references import dangling
from gateway.objects.settle import settle
from gateway.objects.values import snapshot

__all__ = ["dangling", "json_schema", "parse", "read", "settle", "snapshot"]
