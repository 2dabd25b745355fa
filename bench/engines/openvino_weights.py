"""Weights alone in 8 or 4 bits in an IR, by NNCF; OpenVINO's CPU plugin then computes products in FP32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.engines.openvino_count import constant_of
from bench.engines.openvino_dynamic import NARROW
from bench.errors import Unsupported

BLOCK, LEAST = 32, 4  # numbers of a row that share a scale in INT4; fewer where a row is no multiple of it


# why linear layers stay in floating point, by how activations are quantized
LEFT = {
    "dynamic": {"linear": NARROW},
    "float": {"linear": f"NNCF holds rows of weights whose length is no multiple of {LEAST} in 8 bits"},
}


def compressed(model: Any, number_format: str, kept: Sequence[str]) -> Any:
    """The model with the weights of its products in INT8, a scale for each channel, or in INT4, one for each block.

    kept  the types of operations that keep their weights.

    Raises Unsupported where no product has weights.
    """
    import nncf

    products = [node for node in model.get_ordered_ops() if node.get_type_name() == "MatMul"]
    if all(constant_of(node, place) is None for node in products for place in (0, 1)):
        raise Unsupported("OpenVINO holds the weights of linear layers in few bits, and this network has none")
    ignored = nncf.IgnoredScope(types=list(kept), validate=False)
    if number_format == "int8":
        return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM, ignored_scope=ignored)
    advanced = nncf.AdvancedCompressionParameters(
        group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST, min_adjusted_group_size=LEAST
    )
    return nncf.compress_weights(
        model,
        mode=nncf.CompressWeightsMode.INT4_ASYM,
        group_size=BLOCK,
        all_layers=True,
        ignored_scope=ignored,
        advanced_parameters=advanced,
    )
