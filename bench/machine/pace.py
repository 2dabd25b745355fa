"""The best that control probes have kept up on this machine, in any session."""

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

        def better(known: dict[str, float]) -> dict[str, float]:
            return {name: max(figure, known.get(name, 0.0)) for name, figure in medians.items()}

        return self._updated(self._file((PROBED_BY,), threads), float, better)

    def peaks(self, threads: int) -> dict[str, Peak]:
        """The best pace in each number format with so many threads, as far as it is known."""
        return _known(self._file(PEAKED_BY, threads), Peak)

    def raise_peaks(self, threads: int, found: Mapping[str, Peak]) -> dict[str, Peak]:
        """Add what was reached with so many threads, and give the best. Raises CacheError where it cannot be kept."""

        def better(known: dict[str, Peak]) -> dict[str, Peak]:
            return dict(sorted([*known.items(), *found.items()], key=lambda pair: pair[1].gops))

        return self._updated(self._file(PEAKED_BY, threads), Peak, better)

    def _file(self, libraries: tuple[str, ...], threads: int) -> Path:
        called = "-".join(f"{library}-{self._machine.versions[library]}" for library in libraries)
        return self._root / "pace" / f"{self._machine.fingerprint}-{called}-t{threads}.json"

    def _updated(
        self, file: Path, kind: type[Figure], better: Callable[[dict[str, Figure]], dict[str, Figure]]
    ) -> dict[str, Figure]:
        """What a file of figures holds once it was made better."""
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
    """The figures in a file; none where it is damaged, with a BenchWarning."""
    try:
        return of_type(dict[str, kind], json.loads(file.read_text()))  # type: ignore[valid-type]
    except FileNotFoundError:
        return {}
    except ValueError as error:
        warnings.warn(f"{file} is damaged ({error}); what it knew is lost", BenchWarning, stacklevel=2)
        return {}
