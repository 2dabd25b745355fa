"""torch.compile with each call replayed from a CUDA graph, so that the host issues a single launch."""

from __future__ import annotations

from types import MappingProxyType

from bench.engines.inductor import Inductor
from bench.engines.torch_devices import FORMATS_ON


class InductorGraph(Inductor):
    """As Inductor, in its mode "reduce-overhead"."""

    devices = ("cuda",)
    formats = ()
    formats_on = MappingProxyType({"cuda": FORMATS_ON["cuda"]})
    mode = "reduce-overhead"


ENGINE = InductorGraph()
