"""The steps of one look at a target, as they are taken."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from attrs import evolve

from gateway.contracts import Clock
from gateway.health.findings import Findings, Step
from gateway.reach import words

SILENCE = "no answer in time"
_QUIET = ("name",)  # steps whose failure may be somebody else's: the target said nothing


class Trail:
    """*clock* measures how long each step takes."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._steps: list[Step] = []
        self._found: dict[str, Any] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[list[str]]:
        """Take a step. What is put into the list is told of it, if it goes well."""
        began, told = self._clock(), list[str]()
        try:
            yield told
        except asyncio.CancelledError:
            self._note(name, False, SILENCE, began)
            raise
        except Exception as failed:
            self._note(name, False, words(failed), began)
            raise
        self._note(name, True, ", ".join(told) or "ok", began)

    @property
    def failed(self) -> str | None:
        """The step that has failed."""
        return next((step.name for step in self._steps if step.ok is False), None)

    def skip(self, name: str, why: str) -> None:
        self._steps.append(Step(name, None, why))

    def found(self, **facts: Any) -> None:
        """Fields of the :class:`Findings`."""
        self._found.update(facts)

    def strained(self, why: str) -> None:
        self._found["strained"] = why

    def down(self, failed: BaseException) -> None:
        """No session can be opened there: the last step failed by *failed*."""
        if not self._steps:
            self._steps.append(Step("name", False, words(failed)))
        last = self._steps[-1]
        silent = isinstance(failed, TimeoutError) or last.name in _QUIET
        self._found.update(down=f"{last.name}: {last.said}", hard=not silent)

    def findings(self) -> Findings:
        return evolve(Findings(tuple(self._steps)), **self._found)

    def _note(self, name: str, ok: bool, said: str, began: float) -> None:
        self._steps.append(Step(name, ok, said, self._clock() - began))
