"""One objects file with something of everything, and the files that it names."""

from __future__ import annotations

from pathlib import Path

import trustme
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from gateway.identity.password import format_verifier, make_verifier

VERIFIER = format_verifier(make_verifier("pencil", b"0123456789abcdef"))
KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
PRIVATE = KEY.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
PUBLIC = KEY.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
AUTHORITY = trustme.CA()
LEAF = AUTHORITY.issue_cert("app.example.com", common_name="app_ro")

# ssh-keygen -t ed25519 -a 1 -N hunter2
ENCRYPTED = b"""\
-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAACmFlczI1Ni1jdHIAAAAGYmNyeXB0AAAAGAAAABCjbUx4zF
H3O97umsmcExxFAAAAAQAAAAEAAAAzAAAAC3NzaC1lZDI1NTE5AAAAIP5r52lz0V+C0nlC
/Q0TqgFfIUHMrBIZzXJtH1RPUA+/AAAAkKbGSLhgTUinG1b3zOrb3fUdNzmlFqUovrV6fb
CIcSEiSvx1bCyXpkhXz8o7Z879bGSgOyOD4zEdKyKj84R3WLcnJ6Jke9t17S1jVd9y+YFb
xc110VmmJAazSYuJpaAAkoQRtc/AsUdEl46ClO1CSLuxCGPfzLWTnpK7KoLG0TgawrFN3I
TvvCqnVqn/YqdHRA==
-----END OPENSSH PRIVATE KEY-----
"""

SAMPLE = f"""\
resources:
  - name: orders
    protocol: postgresql
    labels: {{env: prod, team: shop}}
    database: orders                 # default database on the target
    targets: [{{address: 10.0.0.11:5432}}, {{address: "[2001:db8::12]:5432"}}]
    tls: {{mode: verify-full, ca: {{file: orders-ca.crt}}}}
    accounts:
      - {{name: app_ro, password: {{file: secrets/app_ro}}}}
      - {{name: app_rw, password: {{value: "read-write hunter2"}}}}
      - name: app_cert
        certificate: {{file: both.pem}}
        private_key: {{file: both.pem}}
  - name: web
    protocol: ssh
    labels: {{env: prod}}
    targets:
      - {{address: 10.0.0.21:22, host_key: "{PUBLIC}"}}
    accounts:
      - {{name: deploy, certificate: {{}}}}
      - {{name: root, private_key: {{file: secrets/web_root}}}}
users:
  - {{name: alice, groups: [analysts], password: {{scram-sha-256: "{VERIFIER}"}},
     ssh_keys: ["{PUBLIC} alice"]}}
  - {{name: bob, groups: [ops], password: {{plain: "only for hunter2"}}}}
  - {{name: carol, admin: true, password: {{file: DIRECTORY/secrets/carol}}}}
roles:
  - name: reader
    allow:
      - resources: {{names: [orders], labels: {{env: prod}}}}
        accounts: [app_ro]
        targets: standby
        max_lag_seconds: 5
        read_only: true
        statement_timeout_seconds: 60
        max_session_seconds: 28800
        idle_seconds: 3600
  - name: operator
    allow:
      - resources: {{labels: {{env: [prod, test]}}}}
        accounts: [app_rw, deploy]
        ssh: {{shell: true, exec: true, sftp: true, forward: ["127.0.0.1:*"], agent: false, x11: false}}
bindings:
  - {{name: analysts-read, role: reader, subjects: [group:analysts]}}
  - {{name: ops, role: operator, subjects: [group:ops, user:carol], sources: [10.0.0.0/8],
     deny_sources: [10.9.0.0/16], hours: "Mon-Fri 08:00-18:00 Europe/Berlin",
     expires: 2027-01-01T00:00:00Z}}
"""  # noqa: E501


def sample(directory: Path) -> str:
    """The text of the file; what it names is in *directory* then."""
    secrets = directory / "secrets"
    secrets.mkdir()
    (secrets / "app_ro").write_text("read-only hunter2\n")
    (secrets / "carol").write_text(f"{VERIFIER}\n")
    (secrets / "web_root").write_bytes(PRIVATE)
    (directory / "orders-ca.crt").write_bytes(AUTHORITY.cert_pem.bytes())
    (directory / "both.pem").write_bytes(LEAF.private_key_and_cert_chain_pem.bytes())
    return SAMPLE.replace("DIRECTORY", str(directory))
