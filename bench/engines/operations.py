"""Why a case is as fast as it is: what one call really executed, in which number format, and a sentence on it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

from bench.spec.outcome import Executed, Explained

INT8, FLOAT, CONVERSION, LAYOUT = "int8", "float", "conversion", "layout"
CALLS, SHOWN = 7, 12  # calls that are profiled, operations that are kept
WORTH_SAYING = 0.03
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

    kind    the runtime's own name of it.
    format  one of INT8, FLOAT, CONVERSION, LAYOUT: what it computed in, or that it only changed numbers or places.
    time_s  in all of a call, seconds, as the runtime's profiler tells.
    count   how many there were in a call.
    kernel  what implements it, with its instruction set, where the runtime tells.
    """

    kind: str
    format: str
    time_s: float
    count: int = 1
    kernel: str | None = None


def format_of(kind: str, int8: bool) -> str:
    """What an operation of this name is; `int8` where its numbers were."""
    bare = kind.lower().rpartition("::")[2]
    if any(bare.startswith(word) for word in CONVERSIONS):
        return CONVERSION
    if bare in BOOKKEEPING or any(bare.startswith(word) for word in LAYOUTS):
        return LAYOUT
    return INT8 if int8 else FLOAT


def together(operations: Iterable[Operation]) -> list[Operation]:
    """Operations of one kind, format and kernel as one, the longest first."""
    found: dict[tuple[str, str, str | None], Operation] = {}
    for one in operations:
        key = (one.kind, one.format, one.kernel)
        known = found.get(key)
        found[key] = (
            one if known is None else replace(known, time_s=known.time_s + one.time_s, count=known.count + one.count)
        )
    return sorted(found.values(), key=lambda one: -one.time_s)


def explained(operations: Sequence[Operation], lowered: bool) -> Explained | None:
    """What a record says of them; None where they took no time.

    lowered  whether INT8 was asked for: then the sentence says what did not become it.
    """
    found = together(operations)
    whole_s, count = sum(one.time_s for one in found), sum(one.count for one in found)
    if not found or whole_s <= 0:
        return None
    shares = {name: sum(one.time_s for one in found if one.format == name) / whole_s for name in WORDS}
    return Explained(
        time=shares,
        count_int8=sum(one.count for one in found if one.format == INT8) / count,
        operations=tuple(Executed(**asdict(one), share=one.time_s / whole_s) for one in found[:SHOWN]),
        diagnosis=_diagnosis(found, shares, whole_s, lowered),
    )


def _diagnosis(found: Sequence[Operation], shares: dict[str, float], whole_s: float, lowered: bool) -> str:
    parts: list[str] = []
    order = (INT8, FLOAT, CONVERSION, LAYOUT) if not lowered else (FLOAT, CONVERSION, LAYOUT, INT8)
    for name in order:
        if shares[name] < WORTH_SAYING:
            continue
        part = f"{shares[name]:.0%} of the time {WORDS[name]}" if not parts else f"{shares[name]:.0%} {WORDS[name]}"
        kinds = [one for one in found if one.format == name and one.time_s / whole_s >= WORTH_SAYING]
        if name in (FLOAT, LAYOUT) and lowered and kinds:
            part += ": " + ", ".join(dict.fromkeys(one.kind for one in kinds))
        parts.append(part)
    kernels = [one.kernel for one in found if one.kernel]
    return "; ".join([*parts, *([f"most by {kernels[0]}"] if kernels else [])])
