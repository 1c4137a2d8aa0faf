"""Whether transcripts are what was written: the command verify, and a word where they are shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from attrs import field, frozen

from gateway.cli.root import Context, command, format_option
from gateway.cli.show import Row, listing
from gateway.control import FAILED
from gateway.errors import GatewayError, printable
from gateway.record import verify as verification
from gateway.record.format import Damaged
from gateway.record.verify import Verdict


@command()
@click.argument("sessions", metavar="[ID|FILE]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All transcripts, and the audit log.")
@click.option("--key", type=click.Path(path_type=Path), metavar="transcripts.pub",
              help="Judge by this public key alone, on any machine.")  # fmt: skip
@format_option
def verify(
    context: Context, sessions: tuple[str, ...], every: bool, key: Path | None, form: str
) -> None:
    """Check that nobody altered a transcript.

    It is ok, open (still written), truncated (as after a crash) or altered (exit 1). A FILE is
    a transcript, or a file of the audit log, with a / or .gwt in its name; it must be called
    what it was. With --key only what signatures cover is judged: all of one that is ok.
    """
    if every == bool(sessions):
        raise click.UsageError("name a session or a file, or say --all")
    paths = _everything(context) if every else [_named(context, name) for name in sessions]
    judged = list(_judged(context, paths, every, key))
    logs = {path.stem for path, verdict in judged if _is_audit(path, verdict)}
    rows = [_row(path, verdict) for path, verdict in judged]
    listing(rows, lambda row: _shown(row, row["id"] in logs), form, "no transcripts")
    raise SystemExit(FAILED if any(row["status"] == "altered" for row in rows) else 0)


def _everything(context: Context) -> list[Path]:
    from gateway.record import reader

    places = context.places()
    return [*reader.newest(places.transcripts), *sorted(places.audit.glob("*.gwt"))]


def _named(context: Context, name: str) -> Path:
    from gateway.record import reader
    from gateway.record.format import SUFFIX

    if "/" in name or name.endswith(SUFFIX):
        return Path(name)
    try:
        return reader.find(context.places().transcripts, name)
    except GatewayError as none:
        if not Path(name).exists():
            raise
        raise GatewayError(f"{none}; if you mean the file, call it ./{name}") from none


def _judged(
    context: Context, paths: list[Path], every: bool, key: Path | None
) -> Iterator[tuple[Path, Verdict]]:
    """*every*: those are all that there are, and what else the session index knows is missing.

    *key*: all that is known here of the gateway that wrote them.
    """
    digests = {} if key else _digests(context)
    if every:
        for gone in sorted(digests.keys() - {path.stem for path in paths}):
            detail = "the session index knows it, and it is gone"
            yield Path(gone), Verdict("altered", detail, 0, 0, {})
    if paths:
        judge = Judge(*_keys(context, key), digests)
        yield from ((path, judge.of(path)) for path in paths)


def _is_audit(path: Path, verdict: Verdict) -> bool:
    return "audit" in (verdict.header.get("kind"), path.parent.name)


def _row(path: Path, verdict: Verdict) -> dict[str, Any]:
    return {
        "id": path.stem,
        "status": verdict.status,
        "detail": verdict.detail,
        "records": verdict.records,
    }


def _shown(row: Row, log: bool) -> Row:
    of = "audit log" if log else "session"
    return {
        "id": row["id"],
        "of": of,
        **{name: row[name] for name in ("status", "records", "detail")},
    }


@frozen
class Judge:
    """Holds transcripts against the gateway's keys, and the digests that its index knows."""

    _public: Any = field(repr=False)
    _mac: bytes | None = field(repr=False)
    _digests: Mapping[str, str] = field(repr=False)

    @classmethod
    def here(cls, context: Context) -> Judge:
        """:raises GatewayError: there is nothing to judge by, or it may not be read"""
        return cls(*_keys(context, None), _digests(context))

    def of(self, path: Path) -> Verdict:
        """:raises OSError: it cannot be read"""
        return verification.verify(path, self._public, self._mac, self._digests.get(path.stem))


def _digests(context: Context) -> dict[str, str]:
    from gateway.store import read_digests

    return read_digests(context.places().store)


def _keys(context: Context, key: Path | None) -> tuple[Any, bytes | None]:
    """The public key, and the secret of the tags where it is known."""
    from gateway.record.keys import load, public_key
    from gateway.vault import FileVault

    if key is not None:
        return public_key(key), None
    keys = context.places().keys
    if not keys.is_dir():
        raise GatewayError(f"{keys}: what the transcripts were signed with is not there")
    return load(keys).public_key(), FileVault.load(keys).derive(b"transcripts")


# -- where they are shown ---------------------------------------------------------------------


@frozen
class Doubt:
    """What is to be said of a transcript that is shown, if anything is."""

    said: str
    altered: bool = False


def doubts(context: Context, paths: Sequence[Path]) -> Iterator[Doubt]:
    """Of transcripts that are altered; or that there is nothing here to judge them by."""
    if not paths:
        return
    try:
        judge = Judge.here(context)
    except GatewayError as why:
        yield Doubt(f"not verified: {why}")
        return
    for path in paths:
        try:
            verdict = judge.of(path)
        except OSError as why:
            yield Doubt(f"{path.stem} is not verified: {why.strerror}")
            continue
        if verdict.status == "altered":
            yield Doubt(f"{path.stem} is altered: {verdict.detail}", altered=True)


@contextmanager
def doubted(context: Context, path: Path) -> Iterator[str]:
    """While it is shown; the doubt is for what keeps it.

    It is told when all has been shown, however that ended; and exits, if it is altered.
    """
    found = list(doubts(context, [path]))
    try:
        yield "".join(each.said for each in found)
    except Damaged:
        if not any(each.altered for each in found):
            raise
    finally:
        code = tell(found)
    if code:
        raise SystemExit(code)


def tell(found: Iterable[Doubt]) -> int:
    """On stderr; returns the exit code that follows."""
    code = 0
    for doubt in found:
        click.echo(printable(f"warning: {doubt.said}"), err=True)
        code = FAILED if doubt.altered else code
    return code
