"""Why a case is as fast as it is: the operations that a call executed, their number formats, and a sentence on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

from bench.spec.outcome import Executed, Explained

INT8, FLOAT, CONVERSION, LAYOUT = "int8", "float", "conversion", "layout"
CALLS, SHOWN = 7, 12  # calls profiled, operations kept
WORTH_SAYING = 0.03  # share of a call's time from which the sentence names a format or operation
WORDS = {
    INT8: "in INT8",
    FLOAT: "in floating point",
    CONVERSION: "in quantize/dequantize",
    LAYOUT: "in reordering and copies",
}
CONVERSIONS = ("quantize", "dequantize", "fakequantize", "convert", "_to_copy")
LAYOUTS = (
    *("reorder", "transpose", "permute", "copy_", "contiguous", "slice", "concat", "cat", "reshape", "squeeze"),
    *("unsqueeze", "view", "pad", "split", "gather", "expand", "clone", "select", "narrow", "input", "output"),
)
BOOKKEEPING = (
    "empty",
    "_empty_affine_quantized",
    "item",
    "_local_scalar_dense",
    "as_strided",
    "detach",
    "resize_",
    "to",
)


@dataclass(frozen=True)
class Operation:
    """One kind of operation that a runtime executed in a call.

    kind    the runtime's name for it.
    format  INT8 or FLOAT, which it computed in; CONVERSION or LAYOUT, where it only changed formats or places.
    time_s  seconds, its total in a call by the runtime's profiler.
    count   how many a call executed.
    kernel  its implementation with the instruction set; None where the runtime does not name it.
    """

    kind: str
    format: str
    time_s: float
    count: int = 1
    kernel: str | None = None


def format_of(kind: str, int8: bool) -> str:
    """The format of an operation by its name; `int8` states whether its numbers are INT8."""
    bare = kind.lower().rpartition("::")[2]
    if any(bare.startswith(word) for word in CONVERSIONS):
        return CONVERSION
    if bare in BOOKKEEPING or any(bare.startswith(word) for word in LAYOUTS):
        return LAYOUT
    return INT8 if int8 else FLOAT


def together(operations: Iterable[Operation]) -> list[Operation]:
    """Operations summed by kind, format and kernel, the longest first."""
    sums: dict[tuple[str, str, str | None], Operation] = {}
    for new in operations:
        key = (new.kind, new.format, new.kernel)
        old = sums.get(key)
        sums[key] = new if old is None else replace(old, time_s=old.time_s + new.time_s, count=old.count + new.count)
    return sorted(sums.values(), key=lambda total: -total.time_s)


def explained(operations: Sequence[Operation], lowered: bool) -> Explained | None:
    """The record's entry on the operations; None where they took no time.

    lowered  whether INT8 was asked for: then the sentence names what is not INT8.
    """
    totals = together(operations)
    whole_s, count = sum(total.time_s for total in totals), sum(total.count for total in totals)
    if not totals or whole_s <= 0:
        return None
    shares = {name: sum(total.time_s for total in totals if total.format == name) / whole_s for name in WORDS}
    return Explained(
        time=shares,
        count_int8=sum(total.count for total in totals if total.format == INT8) / count,
        operations=tuple(Executed(**asdict(total), share=total.time_s / whole_s) for total in totals[:SHOWN]),
        diagnosis=_diagnosis(totals, shares, whole_s, lowered),
    )


def _diagnosis(totals: Sequence[Operation], shares: dict[str, float], whole_s: float, lowered: bool) -> str:
    parts: list[str] = []
    order = (INT8, FLOAT, CONVERSION, LAYOUT) if not lowered else (FLOAT, CONVERSION, LAYOUT, INT8)
    for name in order:
        if shares[name] < WORTH_SAYING:
            continue
        part = f"{shares[name]:.0%} of the time {WORDS[name]}" if not parts else f"{shares[name]:.0%} {WORDS[name]}"
        named = [total for total in totals if total.format == name and total.time_s / whole_s >= WORTH_SAYING]
        if name in (FLOAT, LAYOUT) and lowered and named:
            part += ": " + ", ".join(dict.fromkeys(total.kind for total in named))
        parts.append(part)
    kernels = [total.kernel for total in totals if total.kernel]
    return "; ".join([*parts, *([f"most by {kernels[0]}"] if kernels else [])])
