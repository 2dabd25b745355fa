"""Progress of long work: a bar on the terminal, or messages from a worker to the process that started it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from filelock import BaseFileLock

Item = TypeVar("Item")
Sink = Callable[[str, int, int], None]
TELL_S = 10.0  # between messages while a lock is waited for

_sink: Sink | None = None


def send_to(sink: Sink) -> None:
    """Send all progress of this process to `sink(label, done, total)` instead of to the terminal."""
    global _sink
    _sink = sink


def tell(label: str, done: int, total: int) -> None:
    """Send `done` of `total` to the process that started this one; do nothing where no sink is set."""
    if _sink is not None:
        _sink(label, done, total)


@contextmanager
def waited(lock: BaseFileLock, label: str) -> Iterator[None]:
    """Hold a lock. Send a message every TELL_S seconds while another process has it."""
    while True:
        try:
            lock.acquire(timeout=TELL_S)
            break
        except TimeoutError:
            tell(label, 0, 1)
    try:
        yield
    finally:
        lock.release()


def progress(items: Iterable[Item], label: str, total: int) -> Iterator[Item]:
    """Pass the items on and show how many of `total` are done."""
    if _sink is None:
        from tqdm import tqdm

        yield from tqdm(items, desc=label, total=total, leave=False)
        return
    for done, item in enumerate(items):
        _sink(label, done, total)
        yield item
    _sink(label, total, total)


@dataclass
class Bar:
    """A worker's progress: a bar on a terminal, else a line when a label first appears."""

    bar: Any = None
    begun: set[str] = field(default_factory=set)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def told(self, label: str, done: int, total: int) -> None:
        """Show `done` of `total` under this label."""
        from tqdm import tqdm

        if not sys.stderr.isatty():
            if label not in self.begun:
                self.begun.add(label)
                print(f"{label} ({done}/{total})", file=sys.stderr, flush=True)
            return
        if self.bar is None:
            self.bar = tqdm(total=total, leave=False)
        self.bar.total, self.bar.n = total, done
        self.bar.set_description(label)
