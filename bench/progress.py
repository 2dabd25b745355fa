"""Where long work tells how far it is: a bar on the terminal, or a message from a worker to whoever started it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Sink = Callable[[str, int, int], None]

_sink: Sink | None = None


def send_to(sink: Sink) -> None:
    """Send all progress of this process to `sink(label, done, total)` instead of to the terminal."""
    global _sink
    _sink = sink


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
