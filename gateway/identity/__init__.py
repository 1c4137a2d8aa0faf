"""How a person proves to be a user; knows no wire.

``password`` keeps verifiers and derives keys, ``prover`` chooses between a certificate and a
password. What a proof looks like on the wire is the edge's business.
"""

from gateway.identity.prover import Authenticators

__all__ = ["Authenticators"]
