"""The engines, which run networks. One file per engine; importing it imports none of the packages that it drives."""

from __future__ import annotations

from bench.engines.engine import Emulation, Engine
from bench.spec.registry import Registry

__all__ = ["Emulation", "Engine", "engines"]

engines: Registry[Engine] = Registry("engine")
engines.add("torch", "bench.engines.torch:ENGINE")
engines.add("torchscript", "bench.engines.torchscript:ENGINE")
engines.add("inductor", "bench.engines.inductor:ENGINE")
engines.add("onnxruntime", "bench.engines.onnxruntime:ENGINE")
engines.add("onnxruntime_mobile", "bench.engines.onnxruntime_mobile:ENGINE")
engines.add("openvino", "bench.engines.openvino:ENGINE")
engines.add("executorch", "bench.engines.executorch:ENGINE")


def native_to(format: str) -> str:
    """The name of the engine whose own format a network file has."""
    return next(name for name in engines.names() if engines.get(name).native == format)
