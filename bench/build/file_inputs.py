"""Inputs for network files: real ones from .npz files or pictures, and drawn ones."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.build.calibration import PICTURES, picture_of
from bench.engines.onnx_graphs import Role
from bench.errors import DataError
from bench.spec.digests import source_digest
from bench.spec.inputs import Inputs
from bench.spec.network import NetworkFile, Port, Signature
from bench.spec.registry import Origin

if TYPE_CHECKING:
    import numpy as np

ITEMS = {"train": 16, "test": 16}  # drawn items a split
DRAWN = "these are drawn numbers, not real data: likeness to FP32 is all that they show"
NO_TARGETS = "these inputs have no targets: likeness to FP32 is all that they show"


def digest_of(files: Sequence[Path | str]) -> str:
    """One sha256 for the contents of several files."""
    return hashlib.sha256("".join(source_digest(Path(file)) for file in files).encode()).hexdigest()


@dataclass(frozen=True)
class RealInputs:
    """Inputs that a user gave.

    place     a folder of .npz files or of pictures, one an item, or one .npz file with a leading axis; absolute.
    digest    sha256 of these files and of the code of `function`.
    module    where `function` is defined: (picture (height, width, 3) uint8) -> an input, or a dict of inputs by name.
    """

    place: Path
    digest: str
    module: Origin | None = None
    function: str | None = None

    @classmethod
    def at(cls, place: Path, preprocess: str | None, beside: Path) -> RealInputs:
        """The inputs at a path, for pictures with a function given as "module:function", importable from `beside`.

        Raises DataError where there are no inputs, or no such function.
        """
        if preprocess is None:
            return cls(place.absolute(), digest_of(_files(place, (".npz",))))
        name, _, function = preprocess.partition(":")
        if str(beside) not in sys.path:
            sys.path.insert(0, str(beside))
        try:
            module = importlib.import_module(name)
        except Exception as error:  # a user's module may raise anything
            said = f"{type(error).__name__}: {error}"
            raise DataError(f"--bench-preprocess: {name!r} cannot be imported from {beside}: {said}") from error
        if not callable(getattr(module, function, None)):
            raise DataError(f"--bench-preprocess: {name} has no function {function!r}; write MODULE:FUNCTION")
        origin = Origin.of(name)
        return cls(place.absolute(), digest_of([*_files(place, PICTURES), *origin.files()]), origin, function)

    def items(self, signature: Signature, network: Path) -> Iterator[dict[str, np.ndarray]]:
        """The arrays of each item. Raises DataError where they are not what the network file takes."""
        if self.module is None:
            files = _files(self.place, (".npz",))
            for file in files:
                yield from _npz_items(file, len(files) == 1, signature, network)
            return
        self.module.load()
        function: Any = getattr(sys.modules[self.module.module], str(self.function))
        for file in _files(self.place, PICTURES):
            yield _picture_item(function, file, signature, network)


def _files(place: Path, endings: tuple[str, ...]) -> list[Path]:
    """The files of these endings. Raises DataError where there are none."""
    given = sorted(place.iterdir()) if place.is_dir() else [place] if place.is_file() else []
    files = [file for file in given if file.suffix.lower() in endings]
    if not files:
        other = "; pictures want --bench-preprocess=MODULE:FUNCTION" if endings == (".npz",) else ""
        raise DataError(f"no inputs ({', '.join(endings)}) at {place}: give one file for each item{other}")
    return files


def _picture_item(function: Any, file: Path, signature: Signature, network: Path) -> dict[str, np.ndarray]:
    import numpy as np

    pixels = picture_of(file)
    try:
        made = function(pixels)
    except Exception as error:  # a user's function may raise anything
        said = f"{type(error).__name__}: {error}"
        raise DataError(f"--bench-preprocess: {function.__name__} fails on {file}, {pixels.shape}: {said}") from error
    if not isinstance(made, Mapping):
        names = [port.name for port in signature.inputs]
        if len(names) > 1:
            raise DataError(f"{network} takes {', '.join(names)}; have --bench-preprocess give a dict of these")
        made = dict.fromkeys(names, made)
    _check_names(made, signature, network, file)
    return {name: with_rank(np.asarray(array), signature.ranks.get(name)) for name, array in made.items()}


def item_of(network: NetworkFile, arrays: dict[str, np.ndarray]) -> Inputs:
    """One item with the arrays of a call, each of its port's type. Raises DataError where they do not fit the file."""
    import numpy as np

    made = {}
    for port in network.signature.inputs:
        array = np.asarray(arrays[port.name])
        if array.shape != network.sizes[port.name]:
            raise DataError(
                f"{network.file}: an input for {port.name} has shape {array.shape}, others {network.sizes[port.name]}"
            )
        axis = network.batch_axes[port.name]
        if axis is not None and array.shape[axis] != 1:
            raise DataError(
                f"{network.file}: the inputs for {port.name} have {array.shape[axis]} items along axis {axis}; give 1 "
                "there, and batches by --bench-batch"
            )
        array = array[None] if axis is None else np.moveaxis(array, axis, 0)
        with np.errstate(invalid="ignore"):  # what does not fit is refused below
            made[port.name] = np.ascontiguousarray(array, dtype=port.dtype)
        if made[port.name].dtype.kind != "f" and not np.array_equal(made[port.name], array):
            raise DataError(
                f"{network.file} takes {port}; an input for it, {array.dtype}, has values that this cannot hold"
            )
    return Inputs(made, network.batch_axes)


def _npz_items(file: Path, alone: bool, signature: Signature, network: Path) -> Iterator[dict[str, np.ndarray]]:
    """The items of an .npz file: the file itself, or the rows of one that stands alone."""
    import zipfile

    import numpy as np

    names = [port.name for port in signature.inputs]
    try:
        with np.load(file, allow_pickle=False) as kept:
            arrays = {name: kept[name] for name in kept.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{file} cannot be read as .npz: {str(error).splitlines()[0]}") from error
    _check_names(arrays, signature, network, file)
    if not alone:
        yield arrays
        return
    ranks = signature.ranks
    for row in range(min((len(arrays[name]) for name in names if arrays[name].ndim), default=1)):
        item = {}
        for name in names:
            array = arrays[name]
            if array.ndim and array.ndim >= ranks.get(name, array.ndim):
                array = array[row]
            item[name] = with_rank(array, ranks.get(name))
        yield item


def _check_names(arrays: Mapping[str, Any], signature: Signature, network: Path, file: Path) -> None:
    """Raise DataError where the arrays of a file of inputs lack one that the network takes."""
    missing = [str(port) for port in signature.inputs if port.name not in arrays]
    if missing:
        raise DataError(
            f"{network} takes {', '.join(missing)}, and the inputs from {file} have {', '.join(arrays) or 'nothing'}"
        )


def with_rank(array: np.ndarray, rank: int | None) -> np.ndarray:
    """The array, with a leading axis of 1 where it has one axis less than the input."""
    return array[None] if rank is not None and array.ndim == rank - 1 else array


def drawn(network: NetworkFile, split: str, roles: Mapping[str, Role]) -> Iterator[dict[str, np.ndarray]]:
    """Arrays for the items of a split, drawn by type and by what the network does with each input."""
    import numpy as np

    rng = np.random.default_rng(list(ITEMS).index(split))
    for _ in range(ITEMS[split]):
        yield {
            port.name: _drawn(rng, port, network.sizes[port.name], roles.get(port.name, Role()))
            for port in network.signature.inputs
        }


def _drawn(rng: Any, port: Port, shape: tuple[int, ...], role: Role) -> np.ndarray:
    import numpy as np

    dtype = np.dtype(port.dtype)
    if role.state:
        return np.zeros(shape, dtype)
    if role.value is not None:
        return np.full(shape, role.value, dtype)
    if dtype.kind in "iu":
        return rng.integers(0, role.below, shape).astype(dtype) if role.below else np.ones(shape, dtype)
    return np.ones(shape, dtype) if dtype.kind == "b" else rng.standard_normal(shape).astype(dtype)
