"""A second count of what is lowered: ONNX files by their own shapes, and what profilers of ONNX Runtime and OpenVINO
tell node by node. It shares no code with bench's own.
"""

import json
import math
import tempfile
from pathlib import Path

SHAPES = {  # the documents' models, at small inputs where any size will do; img2col's stacks are in FP32 alone there
    "resnet20": (3, 32, 32),
    "fsrcnn_x2": (3, 32, 32),
    "dncnn_25": (1, 32, 32),
    "conv_k3": (16, 32, 32),
    "mobilenet_v2": (3, 224, 224),
    "whitebox": (3, 64, 64),
    "cartoongan": (3, 64, 64),
    "scrfd_500m": (3, 64, 64),
    "fpn_resnext50": (3, 64, 64),
    "scunet": (3, 64, 64),
    "vit_b16": (3, 224, 224),
}


def of_onnx(file, example):
    """Multiply-accumulates of each node of an ONNX file by its name, by ONNX's own inference of shapes; and the names
    of those that are written in INT8.
    """
    import onnx

    model = onnx.load(file)
    for size, axis in zip(example.shape, model.graph.input[0].type.tensor_type.shape.dim, strict=True):
        axis.dim_value = size
    del model.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {one.name: tuple(one.dims) for one in graph.initializer}
    for one in (*graph.value_info, *graph.input, *graph.output):
        shapes.setdefault(one.name, tuple(axis.dim_value for axis in one.type.tensor_type.shape.dim))
    makers = {name: node for node in graph.node for name in node.output}
    macs, written = {}, set()
    for node in graph.node:
        kind, given = node.op_type, [shapes.get(name) for name in node.input]
        if kind in ("Conv", "ConvInteger"):
            macs[node.name] = math.prod(shapes[node.output[0]]) * math.prod(given[1][1:])
        elif kind == "ConvTranspose":
            macs[node.name] = math.prod(given[0]) * math.prod(given[1][1:])
        elif kind in ("MatMul", "MatMulInteger", "Gemm"):
            turned = any(one.name == "transA" and one.i for one in node.attribute)
            macs[node.name] = math.prod(shapes[node.output[0]]) * given[0][-2 if turned else -1]
        else:
            continue
        made = [makers[name].op_type if name in makers else None for name in node.input[:2]]
        if kind.endswith("Integer") or made == ["DequantizeLinear"] * 2:
            written.add(node.name)
    return macs, written


def by_onnxruntime(file, example):
    """The share of the multiply-accumulates that ONNX Runtime's profiler saw in INT8, all optimizations on."""
    import onnxruntime

    macs, _ = of_onnx(file, example)
    with tempfile.TemporaryDirectory() as work:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_free_dimension_override_by_name("batch", len(example))
        options.enable_profiling, options.profile_file_prefix = True, str(Path(work) / "profile")
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        session.run(None, {session.get_inputs()[0].name: example})
        events = json.loads(Path(session.end_profiling()).read_text())
    whole = set()
    for event in events:
        kind = event.get("args", {}).get("op_name", "")
        if (
            kind in ("QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "DynamicQuantizeMatMul")
            or "Integer" in kind
        ):
            name = event["name"].removesuffix("_kernel_time")
            whole.add(max((one for one in macs if name.startswith(one)), key=len))
    return sum(macs[name] for name in whole) / sum(macs.values()), sum(macs.values())


def by_openvino(compiled, example):
    """The share of the multiply-accumulates that OpenVINO's profiler saw in INT8, by the shapes of the executed graph;
    of attention in one node the product before the softmax is INT8 at most, the one behind it never.
    """
    shapes, kernels = {}, {}
    for node in compiled.get_runtime_model().get_ordered_ops():
        ports = [[tuple(port.get_shape()) for port in side] for side in (node.inputs(), node.outputs())]
        told = {key: str(getattr(value, "value", value)) for key, value in node.get_rt_info().items()}
        shapes[node.get_friendly_name()] = (*ports, told["originalLayersNames"])
        kernels[node.get_friendly_name()] = (told["layerType"], told.get("primitiveType", ""))
    request = compiled.create_infer_request()
    request.infer({0: example})
    whole = lowered = 0
    profiled = {node.node_name: (node.node_type, node.exec_type) for node in request.profiling_info}
    # on AVX2 the profile does not tell fully connected layers (2026.4.1): theirs is the kernel of the executed graph
    left_out = {name: kernel for name, kernel in kernels.items() if kernel[0] == "FullyConnected"}
    for name, (kind, kernel) in (profiled | left_out).items():
        given, made, names = shapes.get(name, ([], [], ""))
        share = 1.0 if kernel.upper().endswith(("I8", "U8")) else 0.0
        if kind in ("Convolution", "Deconvolution"):
            sizes = given[1][2:] if len(given[1]) > len(given[0]) else given[1][1:]
            macs = math.prod(made[0] if kind == "Convolution" else given[0]) * math.prod(sizes)
        elif kind in ("FullyConnected", "MatMul"):
            macs = math.prod(made[0]) * given[0][-1]
        elif kind == "Subgraph" and "oftmax" in names and "MatMul" in names:
            # heads stand before tokens on one processor, behind them on another; tokens are more in all models here
            macs, share = 2 * math.prod(given[0]) * max(given[-1][1:3]), share / 2
        else:
            continue
        whole, lowered = whole + macs, lowered + share * macs
    return lowered / whole, whole
