"""The best that control probes have kept up on this machine, in any session."""

from __future__ import annotations

import json
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.errors import BenchWarning
from bench.machine.facts import describe
from bench.machine.probes import PEAKED_BY, PROBED_BY, Peak
from bench.statistics import is_number
from bench.store import refusals

PROBE_SHARE = {"fp32_gflops": 0.9, "int8_gops": 0.9, "copy_gb_per_s": 0.6}  # memory varies by itself


def fallen(probes: Sequence[Mapping[str, float]], best: Mapping[str, float]) -> list[str]:
    """Which figures of control probes were lower than the best by more than they vary by themselves, a line each."""
    why = []
    for name, share in PROBE_SHARE.items():
        most = best.get(name, 0.0)
        least = min((probe[name] for probe in probes if name in probe), default=most)
        if least < share * most:
            why.append(f"control probe {name} fell to {least / most:.0%} of its best")
    return why


class Pace:
    """The best figure of each probe that this machine has kept up, by the median over a case, and the peaks that
    products and convolutions have reached, kept below `root`.

    Each number of threads has its own, and each version of the libraries that are called.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._machine = describe()

    def learn(self, threads: int, probes: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Add a case's probes with so many threads, and give the best. Raises CacheError where it cannot be kept."""
        names = dict.fromkeys(name for probe in probes for name in probe)
        medians = {name: statistics.median(probe[name] for probe in probes if name in probe) for name in names}

        def better(known: dict[str, Any]) -> dict[str, float]:
            return {
                name: max(figure, known[name] if is_number(known.get(name)) else 0.0)
                for name, figure in medians.items()
            }

        return self._updated(self._file((PROBED_BY,), threads), better)

    def peaks(self, threads: int) -> dict[str, Peak]:
        """The best pace in each number format with so many threads, as far as it is known."""
        return _peaks(self._known(self._file(PEAKED_BY, threads)))

    def raise_peaks(self, threads: int, found: Mapping[str, Peak]) -> dict[str, Peak]:
        """Add what was reached with so many threads, and give the best. Raises CacheError where it cannot be kept."""

        def better(known: dict[str, Any]) -> dict[str, Any]:
            peaks = [*_peaks(known).items(), *found.items()]
            return {name: asdict(peak) for name, peak in sorted(peaks, key=lambda pair: pair[1].gops)}

        return _peaks(self._updated(self._file(PEAKED_BY, threads), better))

    def _file(self, libraries: tuple[str, ...], threads: int) -> Path:
        called = "-".join(f"{library}-{self._machine['versions'][library]}" for library in libraries)
        return self._root / "pace" / f"{self._machine['fingerprint']}-{called}-t{threads}.json"

    def _updated(self, file: Path, better: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        """What a file holds once it was made better."""
        from filelock import FileLock

        with refusals(self._root):
            file.parent.mkdir(parents=True, exist_ok=True)
        with refusals(self._root, FileLock(f"{file}.lock")):
            known = self._known(file)
            best = better(known)
            if best != known:
                half = file.with_suffix(".half")
                half.write_text(json.dumps(best))
                half.replace(file)
        return best

    @staticmethod
    def _known(file: Path) -> dict[str, Any]:
        try:
            return dict(json.loads(file.read_text()))
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError) as error:
            warnings.warn(f"{file} is damaged ({error}); what it knew is lost", BenchWarning, stacklevel=2)
            return {}


def _peaks(known: Mapping[str, Any]) -> dict[str, Peak]:
    """What of a file's content are peaks."""
    return {
        name: Peak(float(one["gops"]), str(one.get("by")))
        for name, one in known.items()
        if isinstance(one, dict) and is_number(one.get("gops"))
    }
