"""torch.compile with each call replayed from a CUDA graph, so that the host issues a single launch."""

from __future__ import annotations

from bench.engines.inductor import Inductor


class InductorGraph(Inductor):
    """As Inductor, in its mode "reduce-overhead"."""

    devices = ("cuda",)
    formats = ()
    mode = "reduce-overhead"


ENGINE = InductorGraph()
