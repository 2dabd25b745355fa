"""A model that exists only as an ONNX file, as a PyTorch network for all engines: `Weights(..., network=network_of)`.

`pytest theirs.onnx` measures a file as it is, without this conversion.
"""

from bench.build.onnx_files import network_of

__all__ = ["network_of"]
