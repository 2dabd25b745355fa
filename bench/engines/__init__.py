"""The engines, which run networks. One file per engine; importing it imports none of the packages that it drives."""

from __future__ import annotations

from bench.engines.engine import Emulation, Engine
from bench.spec.case import Case
from bench.spec.registry import Registry

__all__ = ["Emulation", "Engine", "engine_of", "engines", "engines_on"]

engines: Registry[Engine] = Registry("engine")
engines.add("torch", "bench.engines.torch:ENGINE")
engines.add("torchscript", "bench.engines.torchscript:ENGINE")
engines.add("inductor", "bench.engines.inductor:ENGINE")
engines.add("inductor_graph", "bench.engines.inductor_graph:ENGINE")
engines.add("onnxruntime", "bench.engines.onnxruntime:ENGINE")
engines.add("onnxruntime_mobile", "bench.engines.onnxruntime_mobile:ENGINE")
engines.add("openvino", "bench.engines.openvino:ENGINE")
engines.add("executorch", "bench.engines.executorch:ENGINE")


def engine_of(case: Case) -> Engine:
    """The engine of a case, on the case's device."""
    return engines.get(case.engine).on(case.device)


def engines_on(device: str) -> tuple[str, ...]:
    """The names of the engines that run on a device, in the order of their registration."""
    return tuple(name for name in engines.names() if device in engines.get(name).devices)


def native_to(format: str) -> str:
    """The name of the engine whose own format a network file has."""
    return next(name for name in engines.names() if engines.get(name).native == format)
