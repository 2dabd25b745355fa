"""The best figures of control probes and peaks on this machine, over all sessions."""

from __future__ import annotations

import json
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from bench.errors import BenchWarning, refusals
from bench.machine.facts import describe
from bench.machine.probes import PEAKED_BY, PROBED_BY, Peak
from bench.spec.typed import of_type, to_json

Figure = TypeVar("Figure", float, Peak)
PROBE_SHARE = {"fp32_gflops": 0.9, "int8_gops": 0.9, "copy_gb_per_s": 0.6}  # memory varies by itself


def fallen(probes: Sequence[Mapping[str, float]], best: Mapping[str, float]) -> list[str]:
    """A line for each control probe that fell below its share PROBE_SHARE of the best."""
    why = []
    for name, share in PROBE_SHARE.items():
        most = best.get(name, 0.0)
        least = min((probe[name] for probe in probes if name in probe), default=most)
        if least < share * most:
            why.append(f"control probe {name} fell to {least / most:.0%} of its best")
    return why


class Pace:
    """The highest per-case median of each control probe, and the peaks of products and convolutions, kept below `root`.

    Each number of threads and each version of the probes' libraries has its own file.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._machine = describe()

    def learn(self, threads: int, probes: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Add the probes of a case with `threads` threads; return the best. Raises CacheError where it cannot write."""
        names = dict.fromkeys(name for probe in probes for name in probe)
        medians = {name: statistics.median(probe[name] for probe in probes if name in probe) for name in names}

        def better(known: dict[str, float]) -> dict[str, float]:
            return {name: max(figure, known.get(name, 0.0)) for name, figure in medians.items()}

        return self._updated(self._file((PROBED_BY,), threads), float, better)

    def peaks(self, threads: int) -> dict[str, Peak]:
        """The known peak of each number format with `threads` threads."""
        return _known(self._file(PEAKED_BY, threads), Peak)

    def raise_peaks(self, threads: int, reached: Mapping[str, Peak]) -> dict[str, Peak]:
        """Add peaks reached with `threads` threads; return the best. Raises CacheError where it cannot write."""

        def better(known: dict[str, Peak]) -> dict[str, Peak]:
            return dict(sorted([*known.items(), *reached.items()], key=lambda pair: pair[1].gops))

        return self._updated(self._file(PEAKED_BY, threads), Peak, better)

    def _file(self, libraries: tuple[str, ...], threads: int) -> Path:
        called = "-".join(f"{library}-{self._machine.versions[library]}" for library in libraries)
        return self._root / "pace" / f"{self._machine.fingerprint}-{called}-t{threads}.json"

    def _updated(
        self, file: Path, kind: type[Figure], better: Callable[[dict[str, Figure]], dict[str, Figure]]
    ) -> dict[str, Figure]:
        """The content of a file of figures after the update, which is written where it changed."""
        from filelock import FileLock

        with refusals(self._root):
            file.parent.mkdir(parents=True, exist_ok=True)
        with refusals(self._root, FileLock(f"{file}.lock")):
            known = _known(file, kind)
            best = better(known)
            if best != known:
                half = file.with_suffix(".half")
                half.write_text(to_json(best))
                half.replace(file)
        return best


def _known(file: Path, kind: type[Figure]) -> dict[str, Figure]:
    """The figures in a file; for a damaged file none, with a BenchWarning."""
    try:
        return of_type(dict[str, kind], json.loads(file.read_text()))  # type: ignore[valid-type]
    except FileNotFoundError:
        return {}
    except ValueError as error:
        warnings.warn(f"{file} is damaged ({error}); its figures are lost", BenchWarning, stacklevel=2)
        return {}
