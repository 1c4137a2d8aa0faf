"""``twist gateway`` and ``twistd gateway``."""

from twisted.application.service import ServiceMaker

gateway = ServiceMaker(
    "Gateway",
    "gateway.tap",
    "One door in front of databases and servers.",
    "gateway",
)
