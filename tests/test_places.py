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


def test_what_was_made_with_the_keys_remains(tmp_path: Path) -> None:
    places = Places(tmp_path)
    for directory in (places.keys, places.audit, places.transcripts / "2026" / "11" / "18"):
        directory.mkdir(parents=True)
    assert places.remains() is None, "a place for it is nothing yet"
    transcript = places.transcripts / "2026" / "11" / "18" / "s.gwt"
    for path in (places.audit / "run.gwt", transcript, places.store):
        path.write_bytes(b"")
        assert places.remains() == path
