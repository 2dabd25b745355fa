"""The cost of lowering each layer, as a table and as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.build.sensitivity import Layer


def rendered(layers: Sequence[Layer]) -> str:
    """The ranking as markdown; below it the layers that stay in floating point, with their reasons."""
    from bench.report.markdown import markdown_table

    ranking = [
        {"rank": str(place), "layer": layer.name, "SQNR dB": f"{layer.sqnr_db:.1f}"}
        for place, layer in enumerate((layer for layer in layers if layer.sqnr_db is not None), 1)
    ]
    table = [markdown_table(ranking)] if ranking else []
    stayed = [f"- not lowered: {layer.name}: {layer.reason}" for layer in layers if layer.sqnr_db is None]
    return "\n".join([*table, *(["", *stayed] if stayed else [])])


def chart(layers: Sequence[Layer], title: str) -> Any:
    """The ranking as a bar chart of SQNR in dB."""
    import altair as alt
    import pandas as pd

    ranked = [layer for layer in layers if layer.sqnr_db is not None]
    table = pd.DataFrame({"layer": [layer.name for layer in ranked], "sqnr_db": [layer.sqnr_db for layer in ranked]})
    return (
        alt.Chart(table, title=title)
        .mark_bar()
        .encode(
            x=alt.X("sqnr_db:Q", title="SQNR of the outputs with this layer alone in INT8, dB"),
            y=alt.Y("layer:N", sort=None, title=None),
        )
    )
