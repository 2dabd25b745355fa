"""Where long work tells how far it is: a bar on the terminal, or a message from a worker to whoever started it."""

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
TELL_S = 10.0

_sink: Sink | None = None


def send_to(sink: Sink) -> None:
    """Send all progress of this process to `sink(label, done, total)` instead of to the terminal."""
    global _sink
    _sink = sink


def tell(label: str, done: int, total: int) -> None:
    """Send that `done` of `total` are done to whoever started this process; nothing where it was no harness."""
    if _sink is not None:
        _sink(label, done, total)


@contextmanager
def waited(lock: BaseFileLock, label: str) -> Iterator[None]:
    """Hold a lock that another process may hold for as long as it works, and tell meanwhile that it is waited for."""
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
    """What a worker tells of its progress: a bar on a terminal, else a line for each thing that is begun."""

    bar: Any = None
    begun: set[str] = field(default_factory=set)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def told(self, label: str, done: int, total: int) -> None:
        """Show that `done` of `total` of what the label names are done."""
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
