"""Keys that all tests of this room share: an RSA key takes a second to be made."""

from __future__ import annotations

import pytest

from gateway.ssh.authority import SshAuthority


@pytest.fixture(scope="session")
def shared_authority(tmp_path_factory: pytest.TempPathFactory) -> SshAuthority:
    return SshAuthority.open(tmp_path_factory.mktemp("state") / "keys")
