"""A model that a user has as an ONNX file and nothing else: its graph becomes a PyTorch network, which all engines take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import DataError

if TYPE_CHECKING:
    import torch


def network_of(file: Path) -> torch.nn.Module:
    """The network of an ONNX file, converted by onnx2torch. Raises DataError where it cannot be read or converted."""
    import onnx
    from onnx2torch import convert

    from bench.engines import quiet

    try:
        model = onnx.load(file)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf raises errors of its own
        raise DataError(f"{file} cannot be read as ONNX: {type(error).__name__}") from error
    try:
        with quiet():
            return convert(model)
    except NotImplementedError as error:
        raise DataError(f"{file} holds what onnx2torch does not convert: {error}") from error
