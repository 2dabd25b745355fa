"""The launches of a case as processes: each has a session of the case and a session of its baseline."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Sequence

from bench.machine.devices import devices
from bench.machine.facts import available_bytes
from bench.machine.noise import Watch, snapshot
from bench.spec.case import Case
from bench.timing.baseline import Baseline, Shared
from bench.timing.protocol import AskUsage, Built, Usage
from bench.timing.sampling import Launch, paired
from bench.timing.session import Energy, Metered, Openable, WorkerSession, open_all
from bench.timing.settings import Bench


class Pairs:
    """The launches of a case as processes: each has a session of the case and of its baseline, if any."""

    def __init__(self, case: Case, bench: Bench, built: Built, baseline: Case | None, shared: Shared) -> None:
        self._case, self._bench, self._built, self._baseline, self._shared = case, bench, built, baseline, shared
        self._stack = contextlib.ExitStack()
        self._each_s = 0.0  # to open a session, while others are opened beside it
        self.launches: list[Launch] = []
        self.starting_s = 0.0
        self.sessions: list[WorkerSession] = []
        self.others: list[Baseline] = []
        self.before = Usage()
        self.watch, self.energy = Watch(), Energy()
        self._device = devices.get(case.device)
        self._free_bytes: int | None = None

    def __enter__(self) -> Pairs:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def begin(self, count: int) -> None:
        """Begin `count` more launches, and the baseline's sessions that are lacking for all launches so far.

        The first session is opened alone, to time its load and first call undisturbed; the baseline's first comes with
        the next launches. Processes that were opened after others differ from them: with all sessions of a side opened
        first, that side was 0.4% slower (ResNet20 on ONNX Runtime, 12 times 4 launches, twice). So a launch's two
        sessions are opened next to each other, each side first in every other launch.
        """
        begun, alone = time.monotonic(), not self.sessions
        if alone:
            self._free_bytes = self._device.free_bytes(self._bench.device_index)
        added = [
            self._stack.enter_context(WorkerSession(self._case, self._bench, self._built)) for _ in range(max(0, count))
        ]
        self.sessions += added
        self.launches += [Launch() for _ in added]
        if alone:
            open_all(added)
            self._each_s, self.before = time.monotonic() - begun, self.sessions[0].ask(AskUsage())
            self.starting_s += self._each_s
            return
        if self._baseline is not None:
            self.others = self._shared.sessions(self._baseline, len(self.launches))
        waiting = in_turn(self.sessions, self.others)
        opening = time.monotonic()
        open_all(waiting)
        if waiting:
            self._each_s = (time.monotonic() - opening) / len(waiting)
        self.starting_s += time.monotonic() - begun

    def start_s(self) -> float:
        """Seconds to begin another launch."""
        lacks = self._baseline is not None and not self._shared.has(len(self.launches) + 1)
        return self._each_s * (2 if lacks else 1)

    def room(self) -> int:
        """How many launches fit in the free memory, at twice the first session's peak each; 2 where that is unknown.

        On a device of its own memory, at what the first session took of that; the baseline may take as much.
        """
        peak_bytes = self.before.peak_rss_bytes
        fitting = int(available_bytes() / (2 * peak_bytes)) if peak_bytes else 2
        free_bytes = self._device.free_bytes(self._bench.device_index)
        if self._free_bytes is not None and free_bytes is not None and self._free_bytes > free_bytes:
            fitting = min(fitting, 1 + int(free_bytes / (2 * (self._free_bytes - free_bytes))))
        return max(1, fitting)

    def sample(self, since: int) -> None:
        """Sample all launches from index `since` on, in turn, for a pass."""
        plan, watch = self._bench.plan, self.watch
        pids = [side.pid for side in (*self.sessions, *(other.session for other in self.others))]
        watch.probes.append(self._shared.probe(self._case.threads))
        watch.own.update(pids)
        index, slice_s = self._bench.device_index, self._slice_s()
        started = snapshot(pids)
        sides = itertools.zip_longest(self.launches, self.sessions, self.others)
        for launch, session, other in itertools.islice(sides, since, None):
            paired(launch, Metered(session, self.energy), other, plan.pass_s, slice_s, time.monotonic)
        watch.add(started, snapshot(pids, self._device.counters(index)))

    def _slice_s(self) -> float:
        """The longest slice that the plan, the case's device or the baseline's wants."""
        sides = [self._case, *([] if self._baseline is None else [self._baseline])]
        return max(self._bench.plan.slice_s, *(devices.get(side.device).slice_s for side in sides))


def in_turn(sessions: Sequence[Openable], others: Sequence[Openable]) -> list[Openable]:
    """The sessions of a case and of its baseline that are to be opened, launch by launch; the baseline's comes first in
    every other launch.
    """
    order: list[Openable] = []
    for place, pair in enumerate(itertools.zip_longest(sessions, others)):
        sides = pair if place % 2 == 0 else pair[::-1]
        order += [side for side in sides if side is not None and not side.is_open]
    return order
