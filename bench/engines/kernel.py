"""Whether an engine's INT8 kernels compute what the quantized network says: loss by quantization and by erring kernels.

Both noises are measured on the same inputs: the quantized network's, computed in floating point, against FP32, and the
engine's against the quantized network. A right kernel differs from floating point where a sum lies next to the middle
of two steps, then by one step, and what follows rounds other sums otherwise. At the worst all roundings differ: two
that have nothing to do with each other differ by twice the variance of one, 3 dB more noise than rounding makes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from bench.engines.engine import Emulation
    from bench.spec.interface import Output, Predict

ITEMS = 8
# 3 dB by two roundings, 3 more for few outputs
WORSE_DB = 6.0
NAMED = 3
FIGURES = ("kernel_db", "quantized_db", "agreement", "quantized_agreement")  # that tell whether kernels err


def compared(
    predict: Predict, emulation: Emulation, batches: Sequence[np.ndarray], known: np.ndarray
) -> dict[str, Any]:
    """What a record says of the kernels: `kernel_db`, the SQNR of the session's outputs against the emulation's, None
    where they are `equal`; `quantized_db`, the SQNR of the emulation's outputs against FP32's; `by`, what it was
    emulated by; and where the kernels err, in `erring` the worst layers that tell, each with name and kernel_db, from
    the same quantized inputs. Where an output holds whole numbers, the shares of equal ones stand instead, as
    `agreement` and `quantized_agreement`.

    batches  inputs, each of the shape that both sessions are open for; known  FP32's outputs for their first items,
    (k, values), those of several outputs behind each other.
    """
    import numpy as np

    found = np.concatenate([_rows(predict(batch.copy())) for batch in batches])
    wanted = np.concatenate([_rows(emulation.predict(batch.copy())) for batch in batches])
    facts = _figures(found, wanted, known.reshape(len(known), -1)[: len(wanted)]) | {"by": emulation.by, "reason": None}
    if facts["kernel_db"] is not None and not np.isfinite(facts["kernel_db"]):
        return facts | {"kernel_db": None, "reason": "outputs that are not finite, or 0 throughout, have no SQNR"}
    if errs(facts) and emulation.layers is not None:
        layers = sorted(emulation.layers(batches[0].copy()).items(), key=lambda layer: layer[1])
        facts["erring"] = [
            {"name": name, "kernel_db": own_db}
            for name, own_db in layers[:NAMED]
            if own_db < facts.get("quantized_db", np.inf)
        ]
    return facts


def _figures(found: np.ndarray, wanted: np.ndarray, known: np.ndarray) -> dict[str, Any]:
    import numpy as np

    from bench.statistics import sqnr_db

    equal = bool(np.array_equal(found, wanted))
    if not np.issubdtype(wanted.dtype, np.floating):
        return {
            "kernel_db": None,
            "equal": equal,
            "agreement": float(np.mean(found == wanted)),
            "quantized_agreement": float(np.mean(wanted[: len(known)] == known)),
        }
    quantized_db = sqnr_db(wanted[: len(known)], known)
    return {
        "kernel_db": None if equal else sqnr_db(found, wanted),
        "equal": equal,
        "quantized_db": quantized_db if np.isfinite(quantized_db) else None,
    }


def _rows(output: Output) -> np.ndarray:
    """(n, values): each item's outputs behind each other, in their own number format."""
    import numpy as np

    outputs = output if isinstance(output, tuple) else (output,)
    return np.concatenate([one.reshape(len(one), -1) for one in outputs], axis=1)


def errs(facts: dict[str, Any]) -> bool:
    """Whether kernels add surely more noise than the quantization that they compute."""
    found, wanted, agreed, known = (facts.get(name) for name in FIGURES)
    if agreed is not None and known is not None:
        return bool(1 - agreed > 2 * (1 - known) + 0.01)
    return found is not None and wanted is not None and bool(found < wanted - WORSE_DB)


def doubts(facts: dict[str, Any]) -> Iterable[str]:
    """Lines for a record's warnings, where the kernels err."""
    if not facts or facts.get("reason") is not None or not errs(facts):
        return
    if "agreement" in facts:
        engine, network = f"in {facts['agreement']:.1%} of values", f"in {facts['quantized_agreement']:.1%} with FP32"
        yield f"the engine's INT8 kernels agree {engine} with the quantized network, which itself agrees {network}"
        return
    worst = ", ".join(f"{layer['name']} {layer['kernel_db']:.1f} dB" for layer in facts.get("erring", ()))
    yield (
        f"the engine's INT8 kernels give {facts['kernel_db']:.1f} dB of what the quantized network says, which itself "
        f"keeps {facts['quantized_db']:.1f} dB of FP32{': ' + worst if worst else ''}"
    )
