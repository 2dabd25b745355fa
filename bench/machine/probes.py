"""Control probes, the pace of this machine now, and peaks, the best that its products and convolutions reach."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

Call = tuple[Callable[[], object], int]  # a function, and the operations or bytes of a call

PROBED_BY, PEAKED_BY = "onnxruntime", ("onnxruntime", "openvino")  # the libraries that are called
PROBE_SIZE, PROBE_S = 512, 0.02  # rows of a probe's matrices, and its seconds: cheap enough for each pass
PEAK_S = 0.06  # seconds for each product or convolution


@dataclass(frozen=True)
class Peak:
    """The best pace in a number format.

    gops  10^9 operations a second; a multiply-accumulate counts as two.
    by    the library and the product or convolution that reached it.
    """

    gops: float
    by: str


def probe(sessions: dict[str, Call], threads: int) -> dict[str, float]:
    """Measure this machine with `threads` threads: fp32_gflops, int8_gops (two operations a product), copy_gb_per_s.

    sessions  filled at the first call: products of square matrices on ONNX Runtime, a copy of 64 MB by numpy.
    """
    import numpy as np

    if not sessions:
        sessions.update(_sessions(threads))
    figures = {}
    for name, (call, amount) in sessions.items():
        call()
        times: list[float] = []
        began = time.perf_counter()
        while time.perf_counter() - began < PROBE_S:
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        figures[name] = amount / float(np.median(times)) / 1e9
    return figures


def _sessions(threads: int) -> dict[str, Call]:
    import numpy as np

    source, target = np.ones(8_000_000), np.empty(8_000_000)
    sessions: dict[str, Call] = {"copy_gb_per_s": (lambda: np.copyto(target, source), 2 * source.nbytes)}
    for name, number_format in (("fp32_gflops", "fp32"), ("int8_gops", "int8")):
        with contextlib.suppress(ImportError):
            sessions[name] = _product(threads, number_format, PROBE_SIZE)
    return sessions


def _product(threads: int, number_format: str, size: int) -> Call:
    """A product of square matrices on ONNX Runtime. Raises ImportError where that is missing."""
    import numpy as np
    import onnxruntime
    from onnx import TensorProto, helper

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    operator, *kinds = {
        "fp32": ("MatMul", TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.FLOAT),
        "int8": ("MatMulInteger", TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32),
    }[number_format]
    square, rng = [size, size], np.random.default_rng(0)
    left, right = (rng.integers(0, 100, square).astype(helper.tensor_dtype_to_np_dtype(kind)) for kind in kinds[:2])
    graph = helper.make_graph(
        [helper.make_node(operator, ["a", "b"], ["c"])],
        number_format,
        [helper.make_tensor_value_info("a", kinds[0], square)],
        [helper.make_tensor_value_info("c", kinds[2], square)],
        [helper.make_tensor("b", kinds[1], square, right.tobytes(), raw=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"a": left}), 2 * size**3


def peaks(threads: int) -> dict[str, Peak]:
    """The best pace of each number format with `threads` threads, over products and convolutions of several sizes.

    The best of short runs, since disturbances only slow a run. A single product is no peak: DnCNN on OpenVINO with 2
    threads reached 115% of the pace of ONNX Runtime's product of 512.
    """
    best: dict[str, Peak] = {}
    for number_format, by, make in _kernels(threads):
        try:
            call, amount = make()
        except ImportError:
            continue
        call()
        least_s, began = math.inf, time.perf_counter()
        while time.perf_counter() - began < PEAK_S:
            start = time.perf_counter()
            call()
            least_s = min(least_s, time.perf_counter() - start)
        reached = Peak(amount / least_s / 1e9, by)
        best[number_format] = max(best.get(number_format, reached), reached, key=lambda peak: peak.gops)
    return best


def _kernels(threads: int) -> Iterator[tuple[str, str, Callable[[], Call]]]:
    """The number format and name of each product and convolution, and the function that makes its `Call`."""
    for number_format in ("fp32", "int8"):
        for size in (384, 512, 1024):
            yield number_format, f"onnxruntime's product of {size}", partial(_product, threads, number_format, size)
    for number_format in ("fp32", "int8", "bf16"):
        for size in (512, 1024):
            by = f"openvino's product of {size}"
            yield number_format, by, partial(_layers, threads, number_format, [size, size], [size, size])
        for channels, side in ((64, 64), (256, 28)):
            by = f"openvino's 3x3 convolutions of {channels} channels"
            shapes = [1, channels, side, side], [channels, channels, 3, 3]
            yield number_format, by, partial(_layers, threads, number_format, *shapes)


def _layers(threads: int, number_format: str, shape: list[int], weight_shape: list[int], count: int = 4) -> Call:
    """A chain of `count` products or 3x3 convolutions on OpenVINO. Raises ImportError where OpenVINO is missing, or the
    processor has no bf16.
    """
    import numpy as np
    import openvino
    from openvino import opset13 as op

    core, rng = openvino.Core(), np.random.default_rng(0)
    if number_format == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ImportError("no bf16 on this processor")

    def rounded(node: Any, low: float, high: float) -> Any:
        if number_format != "int8":
            return node
        ends = [op.constant(np.float32(end)) for end in (low, high)]
        return op.fake_quantize(node, *ends, *ends, 256)

    given = values = op.parameter(shape, np.float32)
    for _ in range(count):
        weight = rounded(op.constant(rng.normal(0, 0.05, weight_shape).astype(np.float32)), -0.128, 0.127)
        values = rounded(values, 0.0, 1.0)
        values = op.relu(
            op.matmul(values, weight, False, False)
            if len(shape) == 2
            else op.convolution(values, weight, [1, 1], [1, 1], [1, 1], [1, 1])
        )
    hints = {
        "INFERENCE_PRECISION_HINT": "bf16" if number_format == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
    }
    request = core.compile_model(openvino.Model([values], [given]), "CPU", hints).create_infer_request()
    request.set_input_tensor(openvino.Tensor(rng.random(shape, dtype=np.float32)))
    return request.infer, 2 * count * math.prod(weight_shape) * math.prod(shape) // shape[1]
