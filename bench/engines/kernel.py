"""Whether an engine's INT8 kernels compute the quantized network: noise by quantization and by erring kernels.

Both noises are measured on the same inputs: the quantized network, computed in floating point, against FP32, and the
engine against the quantized network. A right kernel differs from floating point by one step where a sum lies near the
middle of two steps; later sums then round differently. At worst all roundings differ: independent roundings differ by
twice the variance of a single rounding, 3 dB more noise than rounding makes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bench.spec.inputs import Inputs
from bench.spec.interface import TENSOR, Interface
from bench.spec.outcome import ErringLayer, Kernel

if TYPE_CHECKING:
    import numpy as np

    from bench.engines.engine import Emulation
    from bench.spec.interface import Predict

ITEMS = 8  # inputs compared, in whole batches, at least a batch
WORSE_DB = 6.0  # 3 dB by two roundings, 3 more for few outputs
NAMED = 3  # erring layers that a record names


def compared(
    predict: Predict,
    emulation: Emulation,
    batches: Sequence[np.ndarray | Inputs],
    known: np.ndarray,
    interface: Interface = TENSOR,
) -> Kernel:
    """The record's entry on the kernels.

    batches  inputs of one call each, of the shape that both sessions are open for.
    known    (k, values), FP32's outputs for the first k items, several outputs concatenated.
    """
    import numpy as np

    def outputs(run: Predict) -> np.ndarray:
        return np.concatenate([_rows(interface.items(run(Inputs.of(batch).copy().batch()))) for batch in batches])

    actual, wanted = outputs(predict), outputs(emulation.predict)
    facts = replace(_figures(actual, wanted, known.reshape(len(known), -1)[: len(wanted)]), by=emulation.by)
    if facts.kernel_db is not None and not np.isfinite(facts.kernel_db):
        return replace(facts, kernel_db=None, reason="outputs that are not finite, or 0 throughout, have no SQNR")
    if errs(facts) and emulation.layers is not None:
        layers = sorted(emulation.layers(Inputs.of(batches[0]).copy().batch()).items(), key=lambda layer: layer[1])
        most_db = math.inf if facts.quantized_db is None else facts.quantized_db
        facts = replace(facts, erring=tuple(ErringLayer(*layer) for layer in layers[:NAMED] if layer[1] < most_db))
    return facts


def _figures(actual: np.ndarray, wanted: np.ndarray, fp32: np.ndarray) -> Kernel:
    import numpy as np

    from bench.statistics import sqnr_db

    equal = bool(np.array_equal(actual, wanted))
    if not np.issubdtype(wanted.dtype, np.floating):
        return Kernel(
            equal=equal,
            agreement=float(np.mean(actual == wanted)),
            quantized_agreement=float(np.mean(wanted[: len(fp32)] == fp32)),
        )
    quantized_db = sqnr_db(wanted[: len(fp32)], fp32)
    return Kernel(
        kernel_db=None if equal else sqnr_db(actual, wanted),
        equal=equal,
        quantized_db=quantized_db if np.isfinite(quantized_db) else None,
    )


def _rows(outputs: tuple[np.ndarray, ...]) -> np.ndarray:
    """(n, values): each item's outputs concatenated, in their number format."""
    import numpy as np

    return np.concatenate([values.reshape(len(values), -1) for values in outputs], axis=1)


def errs(facts: Kernel) -> bool:
    """Whether kernels surely add more noise than the quantization does."""
    if facts.agreement is not None and facts.quantized_agreement is not None:
        return 1 - facts.agreement > 2 * (1 - facts.quantized_agreement) + 0.01
    if facts.kernel_db is None or facts.quantized_db is None:
        return False
    return facts.kernel_db < facts.quantized_db - WORSE_DB


def doubts(facts: Kernel | None) -> Iterable[str]:
    """Warnings for a record; none where the kernels do not err."""
    if facts is None or facts.reason is not None or not errs(facts):
        return
    if facts.agreement is not None:
        engine, network = f"in {facts.agreement:.1%} of values", f"in {facts.quantized_agreement:.1%} with FP32"
        yield f"the engine's INT8 kernels agree {engine} with the quantized network, which itself agrees {network}"
        return
    worst = ", ".join(f"{layer.name} {layer.kernel_db:.1f} dB" for layer in facts.erring)
    yield (
        f"the engine's INT8 kernels give {facts.kernel_db:.1f} dB of what the quantized network says, which itself "
        f"keeps {facts.quantized_db:.1f} dB of FP32{': ' + worst if worst else ''}"
    )
