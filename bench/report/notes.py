"""Notes on measured cases beside their figures, the worst first."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from bench.engines.kernel import errs
from bench.spec.outcome import Kernel
from bench.statistics import is_number, unlike

# the figures that decide whether kernels err
KERNEL = ("kernel_db", "quantized_db", "agreement", "quantized_agreement")
BITS = [f"artifact.layers_by_bits.{bits}" for bits in range(2, 17)]
NOTED = (  # the columns of a frame that notes are made from
    *("name", "status", "fidelity.sqnr_db", "fidelity.agreement", *(f"kernel.{figure}" for figure in KERNEL)),
    *("lowered.of", "lowered.format", "lowered.share", "lowered.promised", "lowered.left"),
    *("artifact.left_in_fp32", "artifact.left_by", "artifact.packed_bytes", *BITS),
    *("noise.why", "warnings", "speedup.reason"),
)
NAMED = 3  # layers that a note names
OTHERS = 2  # the rank of cases that are neither broken (0) nor below their promise (1)
LEAST = 0.0005  # half the last digit of a share shown to 0.1%: less is no shortfall


def notes_of(rows: Iterable[Mapping[Any, Any]], worst: bool = False) -> list[tuple[str, list[str]]]:
    """The name and lines of each row of a frame that has notes: broken cases first, then those with less lowered than
    their recipe promises, then others. With `worst`, only the first two groups.
    """
    noted = [(row, lines) for row in rows if (lines := doubts(row)) and (_rank(row) < OTHERS or not worst)]
    return [(str(row["name"]), lines) for row, lines in sorted(noted, key=lambda pair: _rank(pair[0]))]


def doubts(row: Mapping[Any, Any]) -> list[str]:
    """The lines on a case: no likeness to FP32, what stayed in floating point, noise and warnings, why it has no
    speed-up.
    """
    lines = []
    if _unlike(row):
        lines.append(f"broken: its outputs keep no likeness of FP32's, {row['fidelity.sqnr_db']:.1f} dB")
    remarks = [_texts(row.get(name)) for name in ("noise.why", "warnings")]
    lines += [*_below(row), *itertools.chain(*(reversed(remarks) if _erring(row) else remarks))]
    layers, by = row.get("artifact.left_in_fp32"), row.get("artifact.left_by")
    if isinstance(by, str) and isinstance(layers, list):
        lines.append(f"{len(layers)} layers were left in FP32, by {by} on the training side")
    lines += _widths(row)
    lines += [f"no speed-up: {row['speedup.reason']}"] if isinstance(row.get("speedup.reason"), str) else []
    return lines


def _rank(row: Mapping[Any, Any]) -> int:
    return 0 if _unlike(row) or _erring(row) else 1 if _below(row) else OTHERS


def _unlike(row: Mapping[Any, Any]) -> bool:
    return unlike(row.get("fidelity.sqnr_db"), row.get("fidelity.agreement"))


def _erring(row: Mapping[Any, Any]) -> bool:
    """Whether the engine's kernels surely add more noise than the quantization that they compute."""
    figures = [value if is_number(value := row.get(f"kernel.{name}")) else None for name in KERNEL]
    return errs(Kernel(**dict(zip(KERNEL, figures, strict=True))))  # type: ignore[arg-type]


def _below(row: Mapping[Any, Any]) -> list[str]:
    """A line on the lowered share and the layers left out; none where the share is what the recipe promises."""
    share, promised = row.get("lowered.share"), row.get("lowered.promised")
    promised = promised if is_number(promised) else 1.0
    if not is_number(share) or share >= promised - LEAST:
        return []
    left = row.get("lowered.left")
    layers = [layer for layer in left if isinstance(layer, dict)] if isinstance(left, list) else []
    layers.sort(key=lambda layer: -layer["macs"] if is_number(layer.get("macs")) else 0.0)
    names = [f"{layer.get('name')}{f' ({reason})' if (reason := layer.get('reason')) else ''}" for layer in layers]
    rest = f"; not so: {_named(names)}" if names else ""
    wanted = "" if promised == 1 else f", of {promised:.1%} promised"
    what = "weights" if row.get("lowered.of") == "weights" else "multiply-accumulates"
    return [f"{share:.1%} of its {what} are in {str(row['lowered.format']).upper()}{wanted}{rest}"]


def _widths(row: Mapping[Any, Any]) -> list[str]:
    """A line on the layers by their bits, where these differ."""
    layers = {column.rpartition(".")[2]: _texts(row.get(column)) for column in BITS}
    layers = {bits: names for bits, names in layers.items() if names}
    if len(layers) < 2 or not is_number(row.get("artifact.packed_bytes")):
        return []
    parts = [
        f"{len(names)} layer{'s' * (len(names) > 1)} in {bits} bits ({_named(names)})" for bits, names in layers.items()
    ]
    return [f"weights take {row['artifact.packed_bytes'] / 1e3:,.1f} KB packed: {', '.join(parts)}"]


def _named(names: list[str]) -> str:
    """The first of some names, and how many more there are."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _texts(value: Any) -> list[str]:
    return [str(line) for line in value] if isinstance(value, list) else []
