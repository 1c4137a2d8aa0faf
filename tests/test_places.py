"""What lies where: nothing twice, and all of it in the state directory."""

from __future__ import annotations

from pathlib import Path

from gateway.places import Places


def test_every_place_is_its_own_and_inside() -> None:
    state = Path("/var/lib/gateway")
    places = Places(state)
    names = [name for name, value in vars(Places).items() if isinstance(value, property)]
    found = [getattr(places, name) for name in names]
    assert len(set(found)) == len(found) > 0
    assert {path.parent for path in found} == {state}


def test_the_control_socket_is_where_the_command_looks_for_it() -> None:
    assert Places(Path("/state")).control == Path("/state/control.sock")
