"""`bench data list | fetch NAME | check`: what they do with the registered data sets and weights."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.errors import DataError, UnknownMember
from bench.spec.dataset import datasets
from bench.spec.model import Model, Source, Weights, models
from bench.spec.network import NetworkFile

TIMEOUT_S = 30  # for a single socket operation


@dataclass(frozen=True)
class Piece:
    """A data set or a set of weights, as a user's folder may hold it.

    names   names that fetch it: its own first, then those of what it belongs to.
    place   folder -> its files there; raises DataError where a file is missing. None where it needs no file.
    fetch   folder -> None, downloads it; None where it cannot be downloaded.
    read    folder -> what was read, in words; raises DataError where it is damaged.
    """

    names: tuple[str, ...]
    about: str
    place: Callable[[Path], list[Path]] | None
    fetch: Callable[[Path], None] | None
    read: Callable[[Path], str]

    @property
    def name(self) -> str:
        """The piece's own name."""
        return self.names[0]

    def lacks(self, folder: Path) -> str | None:
        """The reason why the folder lacks it; None where it is there."""
        try:
            if self.place is not None:
                self.place(folder)
        except DataError as error:
            return str(error)
        return None


def list_data(folder: Path | None) -> list[str]:
    """A line for each data set and each set of weights: its name, whether the folder holds it, what it is."""
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
    """Fetch a data set and the weights that belong to it, or a model's weights and their data sets.

    Pieces that are whole already are left alone. Returns a line for each piece. Raises UnknownMember where nothing has
    the name, DataError where a piece cannot be fetched: it leaves no half, and the pieces before it stay.
    """
    pieces = _pieces()
    matches = [piece for piece in pieces if name in piece.names]
    if not matches:
        registered = ", ".join(dict.fromkeys(label for piece in pieces for label in piece.names)) or "none"
        raise UnknownMember(f"nothing to fetch is named {name!r}; registered: {registered}")
    lines = []
    for piece in matches:
        lines.append(_line(piece, *_brought(piece, folder)))
    return lines


def fetch_dataset(name: str, folder: Path) -> None:
    """Download a data set alone, unless the folder holds it whole. Raises DataError."""
    _brought(_data_piece(name, []), folder)


def _brought(piece: Piece, folder: Path) -> tuple[str, str]:
    """The state of a piece, downloaded unless the folder holds it whole, and what was read."""
    state, text = _state(piece, folder)
    if state not in ("missing", "damaged"):
        return state, text
    _bring(piece, folder)
    return "fetched", piece.read(folder)


def _bring(piece: Piece, folder: Path) -> None:
    """Download a piece to a temporary folder; move it into place once it reads as whole."""
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
    # pooch, requests, urllib and torchvision raise these
    except (OSError, EOFError, ValueError, RuntimeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"cannot fetch {piece.name} to {folder}: {reason}; or bring it there yourself") from error
    finally:
        socket.setdefaulttimeout(patience_s)


def check(folder: Path) -> tuple[list[str], bool]:
    """Read every registered piece from the folder; return a line for each, and whether all are there and whole.

    Raises DataError where there is no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"no data folder at {folder}; name one that exists by --bench-data or BENCH_DATA")
    states = [(piece, *_state(piece, folder)) for piece in _pieces()]
    lines = [_line(piece, state, text) for piece, state, text in states]
    return lines, all(state in ("whole", "built in") for _, state, _ in states)


def _state(piece: Piece, folder: Path) -> tuple[str, str]:
    """The state of a piece once read ("built in", "whole", "missing" or "damaged"), and what was read or is wrong."""
    lacking = piece.lacks(folder)
    if lacking is not None:
        return "missing", lacking
    try:
        return "built in" if piece.place is None else "whole", piece.read(folder)
    except DataError as error:
        return "damaged", str(error)


def _line(piece: Piece, state: str, text: str) -> str:
    return f"{piece.name:<32} {state:<10} {text}"


def _pieces() -> list[Piece]:
    """All data sets, each followed by its weights. Random weights, with neither a file nor a training, are left out."""
    registered = [
        (model, weights)
        for model in map(models.get, models.names())
        for weights in model.weights
        if weights.file is not None or weights.train is not None
    ]
    pieces = []
    for name in datasets.names():
        pairs = [(model, weights) for model, weights in registered if weights.dataset == name]
        pieces.append(_data_piece(name, pairs))
        pieces += [_weights_piece(model, weights) for model, weights in pairs]
    return pieces


def _data_piece(name: str, pairs: list[tuple[Model, Weights]]) -> Piece:
    dataset = datasets.get(name)

    def read(folder: Path) -> str:
        counts = {split: len(dataset.load(split, folder).inputs) for split in ("train", "test")}
        return ", ".join(f"{count:,} {split}" for split, count in counts.items())

    belongs_to = dict.fromkeys([name, *(weights.name for _, weights in pairs), *(model.name for model, _ in pairs)])
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
        if isinstance(network, NetworkFile):
            return f"a file of {network.format}"
        if weights.read is not None:
            load_state(network, weights.read(folder / weights.file), str(folder / weights.file))
        return f"{sum(parameter.numel() for parameter in network.parameters()):,} parameters"

    about = f"weights of {model.name} for {weights.dataset}: {weights.file or 'trained when first needed'}"
    names = (weights.name, model.name, weights.dataset)
    return Piece(names, about, None if weights.file is None else place, weights.fetch, read)
