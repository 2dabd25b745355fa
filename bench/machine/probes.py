"""Control probes: what products and convolutions of this machine reach now, and at the best."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

# what is called, and its operations, or bytes
Call = tuple[Callable[[], object], int]

PROBED_BY = "onnxruntime"


PROBE_SIZE = 512


PROBE_S = 0.02


PEAKED_BY = (PROBED_BY, "openvino")


PEAK_S = 0.06


def probe(sessions: dict[str, Call], threads: int) -> dict[str, float]:
    """Measure this machine with so many threads: fp32_gflops, int8_gops (two operations a product), copy_gb_per_s.

    sessions  is filled at the first call. Products of square matrices on ONNX Runtime; a copy of 64 MB by numpy.
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
    """A product of square matrices on ONNX Runtime, and its operations. Raises ImportError where that is missing."""
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
    """The best pace that products and convolutions of several sizes reach on this machine with so many threads, for
    each number format that any of them is in. The best of short runs: what disturbs them
    can only slow them down.

    No single product is a machine's peak: a restorer on OpenVINO reached 115% of what one of 512 on ONNX Runtime did,
    with 2 threads.
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
        found = Peak(amount / least_s / 1e9, by)
        best[number_format] = max(best.get(number_format, found), found, key=lambda peak: peak.gops)
    return best


def _kernels(threads: int) -> Iterator[tuple[str, str, Callable[[], Call]]]:
    """Number format, name, and what makes a call and tells its operations."""
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
    """So many products, or 3x3 convolutions, one after the other on OpenVINO, and their operations; in bf16 only on
    processors that have it. Raises ImportError where OpenVINO, or that, is missing.
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


@dataclass(frozen=True)
class Peak:
    """The best pace that was reached in a number format: 10^9 operations a second, two a multiply-accumulate, and by
    what.
    """

    gops: float
    by: str
