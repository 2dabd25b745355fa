"""The content-addressed store of what was built: atomic, locked, verified when read."""

from __future__ import annotations

import contextlib
import errno
import functools
import gzip
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.errors import BenchWarning, CacheError, refusals
from bench.progress import waited
from bench.spec import packages
from bench.spec.digests import file_digest, source_digest
from bench.spec.typed import of_type

# plain JSON
Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]
Facts = Mapping[str, Json]

MANIFEST = "manifest.json"
BESIDE = "beside"  # folder of files that do not run
FOLLOWED = "followed"  # what signposts name, in manifests and keys
HALF = re.compile(r"\.(building|damaged)-(?:([0-9a-f]{32})-)?")
DAY_S = 86400.0  # age at which unfinished folders of older versions are removed


@dataclass(frozen=True)
class Artifact:
    """Something built, in a folder of its own.

    digest  sha256 over the names and contents of its files, hex; bytes  their size; made_from  its whole key. Files in
            its folder BESIDE count in neither digest nor size: they describe the build or serve to check it, and do not
            run. They are verified like the others.
    """

    folder: Path
    digest: str
    bytes: int
    made_from: Facts

    def gzip_bytes(self) -> int:
        """The size of its files, each compressed by gzip as hard as it can."""
        files = (self.folder / name for name in _running(_facts(self.folder)))
        return sum(len(gzip.compress(file.read_bytes(), mtime=0)) for file in files)


@dataclass(frozen=True)
class Names:
    """What a signpost names: files, relative to a folder, and installed distributions."""

    files: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """An entry's manifest: its whole key, its files' digests and sizes in bytes, and a signpost's names."""

    made_from: dict[str, Any]  # Facts; msgspec cannot read a recursive type
    files: dict[str, tuple[str, int]] = field(default_factory=dict)
    followed: Names | None = None


@dataclass
class Used:
    """What showed only during the build to shape its result: files, and installed distributions by name."""

    files: set[Path] = field(default_factory=set)
    packages: set[str] = field(default_factory=set)


version = functools.cache(packages.version)


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The installed versions of distributions."""
    return {package: version(package) for package in packages}


def key(made_from: Facts) -> str:
    """The address of what is made from exactly these facts, plain JSON: 32 hex digits."""
    text = json.dumps(made_from, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Store:
    """Artefacts below one folder: `<root>/<kind>/<key>/`, each with a manifest of its files' digests.

    Several sessions may use one store at once: an artefact is built under a file lock in a folder beside its place,
    and renamed to it when it is whole, so what has a name is always complete.

    Some sources show only during the build: modules that code imports by a computed name, files that it opens. Then the
    entry at the key is a signpost, a manifest that names these, and the artefact lies at the key that covers their
    digests and versions too; as in ccache and ninja. A signpost is never changed: files that bring other files lead to
    another key, where the next signpost stands.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, kind: str, made_from: Facts, beside: Path | None = None) -> Artifact | None:
        """Give the artefact made from these facts, None where there is none.

        beside  the folder that signposts' file names are relative to, None for this process's own.

        A damaged artefact is removed with a BenchWarning, and None is given.
        """
        return self._walk(kind, made_from, beside)[1]

    def get(
        self,
        kind: str,
        made_from: Facts,
        make: Callable[[Path], Used | None],
        beside: Path | None = None,
    ) -> Artifact:
        """Give the artefact made from these facts; where there is none, `make(folder)` writes its files, and returns
        what else they were made from, if anything.

        Raises CacheError where the store cannot be written, and then leaves nothing half done.
        """
        place = self.root / kind / key(made_from)
        with refusals(self.root):
            place.parent.mkdir(parents=True, exist_ok=True)
        lock = waited(self._lock(kind, key(made_from)), f"waiting for the session that makes {kind} {place.name}")
        with refusals(self.root, lock):
            whole_key, artifact = self._walk(kind, made_from, beside, key(made_from))
            if artifact is None:
                place = self._make(place, whole_key, beside, make)
                artifact = self._walk(kind, made_from, beside, key(made_from))[1]
        if artifact is None:
            raise CacheError(f"cannot keep {place}: what was written there reads back damaged; check the disk")
        return artifact

    def at(self, folder: Path) -> Artifact | None:
        """The artefact in a folder of this store, None where it is missing or damaged."""
        manifest = self._read(folder, None)
        return None if manifest is None else _artifact(folder, manifest.made_from, manifest.files)

    def _walk(
        self, kind: str, made_from: Facts, beside: Path | None, held: str | None = None
    ) -> tuple[Facts, Artifact | None]:
        """Follow the signposts; return the whole key at their end, and the artefact there, if any.

        held  the key whose lock this process holds.
        """
        while True:
            folder = self.root / kind / key(made_from)
            manifest = self._read(folder, held)
            if manifest is None:
                return made_from, None
            if manifest.followed is None:
                return made_from, _artifact(folder, made_from, manifest.files)
            made_from = {**made_from, FOLLOWED: _as_they_are(manifest.followed, beside)}

    def _read(self, folder: Path, held: str | None) -> Manifest | None:
        """An entry's manifest, None where there is none; a damaged entry is removed first.

        It is examined once more under its lock: another session may have removed it meanwhile, and built it again.
        Where another session holds the lock, the entry is left to that session.
        """
        if not folder.is_dir():
            return None
        manifest = _examined(folder)
        if isinstance(manifest, Manifest):
            return manifest
        from filelock import Timeout

        lock = contextlib.nullcontext() if held == folder.name else self._lock(folder.parent.name, folder.name, 0)
        try:
            with refusals(self.root, lock):
                if not folder.is_dir():
                    return None
                manifest = _examined(folder)
                if isinstance(manifest, Manifest):
                    return manifest
                doomed = Path(tempfile.mkdtemp(prefix=f".damaged-{folder.name}-", dir=folder.parent))
                folder.replace(doomed / folder.name)
                shutil.rmtree(doomed)
        except Timeout:
            return None
        warnings.warn(f"cache entry {folder} is damaged ({manifest}); it is built again", BenchWarning, stacklevel=4)
        return None

    def _lock(self, kind: str, address: str, timeout_s: float = -1) -> Any:
        from filelock import FileLock

        return FileLock(self.root / kind / f"{address}.lock", timeout=timeout_s)

    def _make(self, place: Path, made_from: Facts, beside: Path | None, make: Callable[[Path], Used | None]) -> Path:
        """Build an entry at the end of the signposts that begin at `place`, whose lock is held; return its folder.

        Where the build used more than the signposts name, a further signpost is put there.
        """
        _clear(place)
        half = Path(tempfile.mkdtemp(prefix=f".building-{place.name}-", dir=place.parent))
        try:
            (half / "entry").mkdir()
            used = make(half / "entry") or Used()
            named = names_followed(made_from)
            names = Names(
                tuple(sorted({*named.files, *(_name(file, beside) for file in used.files)})),
                tuple(sorted({*named.versions, *used.packages})),
            )
            if names != named:
                (half / "signpost").mkdir()
                _finish(half / "signpost", place.parent / key(made_from), made_from, names)
                made_from = {**made_from, FOLLOWED: _as_they_are(names, beside)}
            place = place.parent / key(made_from)
            _finish(half / "entry", place, made_from)
        except Exception as error:
            if not isinstance(error, OSError) and shutil.disk_usage(half).free < 2**20:
                raise OSError(errno.ENOSPC, str(error)) from error  # libraries report a full disk in other words
            raise
        finally:
            shutil.rmtree(half, ignore_errors=True)
        return place


def _examined(folder: Path) -> Manifest | str:
    """An entry's manifest, or what is wrong with it."""
    try:
        manifest, files = of_type(Manifest, json.loads((folder / MANIFEST).read_text())), _facts(folder)
    except (OSError, ValueError) as error:
        return f"its manifest cannot be read: {error}"
    for name in sorted(manifest.files.keys() | files.keys()):
        if name not in files:
            return f"{name} is missing"
        if name not in manifest.files:
            return f"{name} was added"
        if manifest.files[name] != files[name]:
            return f"{name} was changed"
    return manifest


def names_followed(made_from: Facts) -> Names:
    """The files and distributions that a key has from signposts."""
    followed = made_from.get(FOLLOWED)
    if not isinstance(followed, Mapping):
        return Names()
    files, packages = followed["files"], followed["versions"]
    assert isinstance(files, Mapping)
    assert isinstance(packages, Mapping)
    return Names(tuple(sorted(files)), tuple(sorted(packages)))


def _running(files: dict[str, tuple[str, int]]) -> dict[str, tuple[str, int]]:
    """Those of an entry's files that run: none of the folder BESIDE."""
    return {name: facts for name, facts in files.items() if not name.startswith(f"{BESIDE}/")}


def _artifact(folder: Path, made_from: Facts, files: dict[str, tuple[str, int]]) -> Artifact:
    running = _running(files)
    return Artifact(folder, _digest_of(running), sum(size for _, size in running.values()), made_from)


def _finish(half: Path, place: Path, made_from: Facts, followed: Names | None = None) -> None:
    """Write an entry's manifest, sync its files to disk, and rename it to `place` unless that exists."""
    manifest = {"made_from": made_from, "files": _facts(half)} | (
        {} if followed is None else {FOLLOWED: asdict(followed)}
    )
    (half / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))
    for path in half.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    if not place.is_dir():
        half.rename(place)


def _clear(place: Path) -> None:
    """Remove what dead processes have left half built, or half removed, beside an entry whose lock is held.

    A builder holds the lock of the key that its folder names, until it ends. Folders that name no key are of older
    versions: they go after a day.
    """
    from filelock import FileLock, Timeout

    for folder in place.parent.iterdir():
        half = HALF.match(folder.name)
        if half is None:
            continue
        address = half.group(2)
        try:
            if address is None and time.time() - folder.stat().st_mtime < DAY_S:
                continue
            held = address in (None, place.name)
            with contextlib.nullcontext() if held else FileLock(place.parent / f"{address}.lock", timeout=0):
                shutil.rmtree(folder, ignore_errors=True)
        except (Timeout, FileNotFoundError):  # it is being built, or another session was quicker
            continue


def _name(file: Path, beside: Path | None) -> str:
    """A file's path relative to a folder, so that a project that is moved keeps what it has built."""
    return Path(os.path.relpath(file.resolve(), Path(beside or Path.cwd()).resolve())).as_posix()


def _as_they_are(names: Names, beside: Path | None) -> dict[str, dict[str, str | None]]:
    """The current digests and versions of what a signpost names; None for what is gone."""
    folder = Path(beside or Path.cwd()).resolve()
    return {
        "files": {name: source_digest(folder / name) if (folder / name).is_file() else None for name in names.files},
        "versions": {package: _version(package) for package in names.versions},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _facts(folder: Path) -> dict[str, tuple[str, int]]:
    """Digest and size in bytes of each file below a folder, except the manifest, by relative name."""
    return {
        path.relative_to(folder).as_posix(): (file_digest(path), path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }


def _digest_of(files: dict[str, tuple[str, int]]) -> str:
    return hashlib.sha256("".join(f"{name}\0{digest}\n" for name, (digest, _) in files.items()).encode()).hexdigest()
