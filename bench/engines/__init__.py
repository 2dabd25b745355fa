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
for name, level in {"unoptimized": "UNOPTIMIZED", "basic": "BASIC", "transformers": "TRANSFORMERS"}.items():
    engines.add(f"onnxruntime_{name}", f"bench.engines.onnxruntime_levels:{level}")
engines.add("openvino", "bench.engines.openvino:ENGINE")
engines.add("executorch", "bench.engines.executorch:ENGINE")


def engine_of(case: Case) -> Engine:
    """The engine of a case, on the case's device."""
    return engines.get(case.engine).on(case.device)


def engines_on(device: str) -> tuple[str, ...]:
    """The names of the common engines that run on a device, in the order of their registration."""
    members = {name: engines.get(name) for name in engines.names()}
    return tuple(name for name, engine in members.items() if engine.common and device in engine.devices)


def native_to(format: str) -> str:
    """The name of the engine whose own format a network file has."""
    return next(name for name in engines.names() if engines.get(name).native == format)
