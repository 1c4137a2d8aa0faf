"""CPU time, memory and medians: what the benchmarks print is made of these."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import psutil
from attrs import define, field


@define
class Cost:
    """What a piece of work took: seconds of CPU of the processes under test, and of the clock."""

    cpu: float = 0.0
    wall: float = 0.0


def family(pid: int) -> list[psutil.Process]:
    """A process and all that it started."""
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def cpu_seconds(pids: Sequence[int]) -> float:
    """Of all that runs, and of what has ended and was waited for."""
    times = (each.cpu_times() for pid in pids for each in family(pid))
    return sum(
        spent.user + spent.system + spent.children_user + spent.children_system for spent in times
    )


def resident(pid: int) -> int:
    """Bytes of memory that belong to this process alone."""
    return int(psutil.Process(pid).memory_full_info().uss)


@contextmanager
def costing(pids: Sequence[int]) -> Iterator[Cost]:
    """What *pids* and what they start spend inside the block.

    Processes that nobody waits for take their figures with them (OpenSSH's do), so they are
    looked at while they run, too: for such doors this is a lower bound.
    """
    cost = Cost()
    watcher = _Watcher(pids)
    waited, began = cpu_seconds(pids), time.monotonic()
    watcher.start()
    yield cost
    cost.wall = time.monotonic() - began
    watcher.stop()
    cost.cpu = max(cpu_seconds(pids) - waited, watcher.seconds())


class _Watcher(threading.Thread):
    """Remembers the last that was seen of every process."""

    def __init__(self, pids: Sequence[int]) -> None:
        super().__init__(daemon=True)
        self._pids = pids
        self._seen: dict[int, float] = {}
        self._look()
        self._before = sum(self._seen.values())
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.02):
            self._look()

    def stop(self) -> None:
        self._over.set()
        self.join()
        self._look()

    def seconds(self) -> float:
        return sum(self._seen.values()) - self._before

    def _look(self) -> None:
        for pid in self._pids:
            for each in family(pid):
                with suppress(psutil.NoSuchProcess):
                    spent = each.cpu_times()
                    self._seen[each.pid] = spent.user + spent.system


@define
class Table:
    """Rows by name; each cell is the median of its rounds, and its ratio to the peer's row."""

    title: str
    unit: str
    peer: str
    digits: int = 1
    _rounds: dict[str, list[float]] = field(factory=dict)

    def add(self, row: str, value: float) -> None:
        self._rounds.setdefault(row, []).append(value)

    def median(self, row: str) -> float:
        return statistics.median(self._rounds[row])

    def lines(self) -> Iterator[str]:
        yield f"{self.title} ({self.unit}; median of {max(map(len, self._rounds.values()))})"
        for row in self._rounds:
            value, peer = self.median(row), self._peer(row)
            ratio = f"{value / self.median(peer):6.2f}x {peer}" if peer != row else ""
            yield f"  {row:<28}{value:>12.{self.digits}f}  {ratio}"

    def _peer(self, row: str) -> str:
        """TLS is compared with the peer's TLS, where it has any."""
        secure = f"{self.peer} TLS"
        return secure if row.endswith(" TLS") and secure in self._rounds else self.peer


def rounds(count: int, work: Sequence[Callable[[], None]]) -> None:
    """Each piece of work in turn, again and again: what disturbs one round disturbs all."""
    for _ in range(count):
        for each in work:
            each()
