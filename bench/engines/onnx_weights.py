"""Weights alone in 8 or 4 bits in an ONNX file: BLOCK numbers of a row share a scale, products stay in FP32."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.engines.onnx_graphs import nodes_of, save
from bench.errors import Unsupported

if TYPE_CHECKING:
    import onnx

BLOCK = 32  # numbers that share a scale
IN_FP32 = 1  # ONNX Runtime's accuracy level of products in FP32; 4 would round activations in the kernel


def compressed(prepared: Path, bits: int, file: Path) -> None:
    """Write an ONNX file with the weights of its products in so many bits.

    prepared  the file after ONNX Runtime's pre-processing, which folds what follows from constants.

    Raises Unsupported where no product has weights.
    """
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    model = onnx.load(prepared)
    without_gemm(model.graph)
    quantizer = MatMulNBitsQuantizer(model, bits=bits, block_size=BLOCK, accuracy_level=IN_FP32)
    quantizer.process()
    graph = quantizer.model.model.graph
    if all(node.op_type != "MatMulNBits" for node in graph.node):
        raise Unsupported("ONNX Runtime holds the weights of linear layers in few bits, and this network has none")
    once = {tensor.name: tensor for tensor in graph.initializer}  # shared weights come once for each product
    del graph.initializer[:]
    graph.initializer.extend(once.values())
    save(quantizer.model.model, file)


def without_gemm(graph: onnx.GraphProto) -> None:
    """Write each Gemm with constant weights as a MatMul and an Add, in place: the quantizer knows MatMul alone."""
    import numpy as np
    from onnx import helper, numpy_helper

    stored = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[Any] = []
    for node in graph.node:
        settings = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        plain = settings.get("alpha", 1.0) == settings.get("beta", 1.0) == 1.0 and not settings.get("transA", 0)
        if node.op_type != "Gemm" or not plain or node.input[1] not in stored:
            nodes.append(node)
            continue
        name = node.input[1]
        if settings.get("transB", 0):
            name = f"{name}_transposed"
            if name not in stored:
                turned = np.ascontiguousarray(numpy_helper.to_array(stored[node.input[1]]).T)
                stored[name] = numpy_helper.from_array(turned, name)
                graph.initializer.append(stored[name])
        biased = len(node.input) > 2 and node.input[2]
        product = f"{node.output[0]}_product" if biased else node.output[0]
        nodes.append(helper.make_node("MatMul", [node.input[0], name], [product], node.name))
        if biased:
            nodes.append(helper.make_node("Add", [product, node.input[2]], [node.output[0]], f"{node.name}_bias"))
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes_of(graph) for name in node.input} | {value.name for value in graph.output}
    idle = {tensor.name for tensor in graph.initializer} - used
    for listed in (graph.initializer, graph.input):
        kept = [value for value in listed if value.name not in idle]
        del listed[:]
        listed.extend(kept)
