"""What `bench data list | fetch NAME | check` does with the data sets and the weights that are registered."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.errors import DataError, UnknownMember
from bench.spec.dataset import datasets
from bench.spec.model import Model, Source, Weights, models

TIMEOUT_S = 30


@dataclass(frozen=True)
class Piece:
    """A data set or a set of weights, as a user's folder may hold it.

    names   what fetches it: its own name first, then those it belongs to.
    place   folder -> its files there; raises DataError where one is missing. None where it needs no file.
    fetch   folder -> None, None where it cannot be downloaded.
    read    folder -> what was read, in words; raises DataError where it is damaged.
    """

    names: tuple[str, ...]
    about: str
    place: Callable[[Path], list[Path]] | None
    fetch: Callable[[Path], None] | None
    read: Callable[[Path], str]

    @property
    def name(self) -> str:
        """Its own name."""
        return self.names[0]

    def lacks(self, folder: Path) -> str | None:
        """What the folder lacks of it, None where nothing."""
        try:
            if self.place is not None:
                self.place(folder)
        except DataError as error:
            return str(error)
        return None


def list_data(folder: Path | None) -> list[str]:
    """One line for each data set and each set of weights: its name, whether the folder holds it, what it is."""
    lines = []
    for piece in _pieces():
        if piece.place is None:
            state = "built in"
        elif folder is None:
            state = "no folder"
        else:
            state = "missing" if piece.lacks(folder) else "there"
        lines.append(_line(piece, state, piece.about))
    return lines


def fetch(name: str, folder: Path) -> list[str]:
    """Bring a data set and the weights that go with it, or a model's weights and the data sets that go with them.

    What is there whole is left alone. Gives one line for each piece. Raises UnknownMember where nothing has the name,
    DataError where something cannot be brought; then the pieces before it are there, and no half of it.
    """
    pieces = _pieces()
    chosen = [piece for piece in pieces if name in piece.names]
    if not chosen:
        known = ", ".join(dict.fromkeys(known for piece in pieces for known in piece.names)) or "none"
        raise UnknownMember(f"nothing to fetch is named {name!r}; registered: {known}")
    lines = []
    for piece in chosen:
        state, told = _state(piece, folder)
        if state in ("missing", "damaged"):
            _bring(piece, folder)
            state, told = "fetched", piece.read(folder)
        lines.append(_line(piece, state, told))
    return lines


def _bring(piece: Piece, folder: Path) -> None:
    """Download a piece beside its place and move it there when it is whole."""
    if piece.fetch is None:
        raise DataError(
            f"{piece.name} cannot be downloaded; bring it yourself: {piece.lacks(folder) or 'it is damaged'}"
        )
    patience_s = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)  # urllib, and so torchvision, would wait for ever on a dead line
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder) as beside:
            piece.fetch(Path(beside))
            piece.read(Path(beside))
            for file in [path for path in Path(beside).rglob("*") if path.is_file()]:
                place = folder / file.relative_to(beside)
                place.parent.mkdir(parents=True, exist_ok=True)
                file.replace(place)
    except DataError:
        raise
    except (
        OSError,
        EOFError,
        ValueError,
        RuntimeError,
    ) as error:  # pooch, requests, urllib and torchvision raise these
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"cannot fetch {piece.name} to {folder}: {reason}; or bring it there yourself") from error
    finally:
        socket.setdefaulttimeout(patience_s)


def check(folder: Path) -> tuple[list[str], bool]:
    """Read all that is registered from the folder; one line for each piece, and whether all are there and whole.

    Raises DataError where there is no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"no data folder at {folder}; name one that exists by --bench-data or BENCH_DATA")
    found = [(piece, *_state(piece, folder)) for piece in _pieces()]
    lines = [_line(piece, state, told) for piece, state, told in found]
    return lines, all(state in ("whole", "built in") for _, state, _ in found)


def _state(piece: Piece, folder: Path) -> tuple[str, str]:
    """What a folder holds of a piece once read, "built in", "whole", "missing" or "damaged", and more in words."""
    lacking = piece.lacks(folder)
    if lacking is not None:
        return "missing", lacking
    try:
        return "built in" if piece.place is None else "whole", piece.read(folder)
    except DataError as error:
        return "damaged", str(error)


def _line(piece: Piece, state: str, told: str) -> str:
    return f"{piece.name:<32} {state:<10} {told}"


def _pieces() -> list[Piece]:
    """All data sets, each followed by the weights that belong to it, but for those that chance gives."""
    weights = [
        (model, weights)
        for model in map(models.get, models.names())
        for weights in model.weights
        if weights.file is not None or weights.train is not None
    ]
    pieces = []
    for name in datasets.names():
        own = [(model, one) for model, one in weights if one.dataset == name]
        pieces.append(_data_piece(name, own))
        pieces += [_weights_piece(model, one) for model, one in own]
    return pieces


def _data_piece(name: str, weights: list[tuple[Model, Weights]]) -> Piece:
    dataset = datasets.get(name)

    def read(folder: Path) -> str:
        counts = {split: len(dataset.load(split, folder).inputs) for split in ("train", "test")}
        return ", ".join(f"{count:,} {split}" for split, count in counts.items())

    belongs_to = dict.fromkeys([name, *(one.name for _, one in weights), *(model.name for model, _ in weights)])
    return Piece(tuple(belongs_to), dataset.about, dataset.files, dataset.fetch, read)


def _weights_piece(model: Model, weights: Weights) -> Piece:
    def place(folder: Path) -> list[Path]:
        file = folder / str(weights.file)
        if not file.is_file():
            raise DataError(f"{folder} holds no {weights.file}")
        return [file]

    def read(folder: Path) -> str:
        from bench.build.networks import architecture, load_state

        if weights.file is None:
            return "trained when first needed"
        network = architecture(Source(model, weights, datasets.get(weights.dataset), folder))
        if weights.read is not None:
            load_state(network, weights.read(folder / weights.file), str(folder / weights.file))
        return f"{sum(parameter.numel() for parameter in network.parameters()):,} parameters"

    about = f"weights of {model.name} for {weights.dataset}: {weights.file or 'trained when first needed'}"
    names = (weights.name, model.name, weights.dataset)
    return Piece(names, about, None if weights.file is None else place, weights.fetch, read)
