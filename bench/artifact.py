"""The content-addressed store of what was built: atomic, locked, verified when read."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import BenchError, BenchWarning, CacheError

MANIFEST = "manifest.json"
BESIDE = "beside"


@dataclass(frozen=True)
class Artifact:
    """Something built, in a folder of its own.

    digest  sha256 over the names and contents of its files, hex; bytes  their size; made_from  its whole key. Files in
            its folder BESIDE are in neither: they are kept to check it by, verified like the others, and are no part
            of what runs.
    """

    folder: Path
    digest: str
    bytes: int
    made_from: dict[str, Any]


def file_digest(path: Path) -> str:
    """The sha256 of a file's content, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def key(made_from: dict[str, Any]) -> str:
    """The address of what is made from exactly these facts: 32 hex digits. They must be plain JSON."""
    text = json.dumps(made_from, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Store:
    """Artefacts below one folder: `<root>/<kind>/<key>/`, each with a manifest of its files' digests.

    Several sessions may use one store at once: an artefact is built under a file lock in a folder beside its place,
    and renamed to it when it is whole, so what has a name is always complete.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, kind: str, made_from: dict[str, Any]) -> Artifact | None:
        """Give the artefact made from these facts, None where there is none.

        One that was damaged is removed with a BenchWarning, and None is given.
        """
        folder = self.root / kind / key(made_from)
        if not folder.is_dir():
            return None
        damage, files = self._examine(folder)
        if damage is None:
            own = {name: facts for name, facts in files.items() if not name.startswith(f"{BESIDE}/")}
            return Artifact(folder, _digest_of(own), sum(size for _, size in own.values()), made_from)
        warnings.warn(f"cache entry {folder} is damaged ({damage}); it is built again", BenchWarning, stacklevel=2)
        with refusals(self.root):
            doomed = tempfile.mkdtemp(prefix=".damaged-", dir=folder.parent)
            folder.replace(Path(doomed) / folder.name)
            shutil.rmtree(doomed)
        return None

    def get(self, kind: str, made_from: dict[str, Any], make: Callable[[Path], None]) -> Artifact:
        """Give the artefact made from these facts; where there is none, `make(folder)` writes its files.

        Raises CacheError where the store cannot be written, and then leaves nothing half done.
        """
        from filelock import FileLock

        place = self.root / kind / key(made_from)
        with refusals(self.root):
            place.parent.mkdir(parents=True, exist_ok=True)
        with refusals(self.root, FileLock(f"{place}.lock")):
            found = self.find(kind, made_from)
            if found is None:
                self._make(place, made_from, make)
                found = self.find(kind, made_from)
        if found is None:
            raise CacheError(f"cannot keep {place}: what was written there reads back damaged; check the disk")
        return found

    def _make(self, place: Path, made_from: dict[str, Any], make: Callable[[Path], None]) -> None:
        half = Path(tempfile.mkdtemp(prefix=".building-", dir=place.parent))
        try:
            make(half)
            manifest = {"made_from": made_from, "files": {name: [*facts] for name, facts in _facts(half).items()}}
            (half / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))
            for path in half.rglob("*"):
                if path.is_file():
                    with path.open("rb") as file:
                        os.fsync(file.fileno())
            half.rename(place)
        except Exception as error:
            if not isinstance(error, OSError) and shutil.disk_usage(half).free < 2**20:
                raise OSError(errno.ENOSPC, str(error)) from error  # libraries say it in words of their own
            raise
        finally:
            shutil.rmtree(half, ignore_errors=True)

    @staticmethod
    def _examine(folder: Path) -> tuple[str | None, dict[str, tuple[str, int]]]:
        """What is wrong with a stored artefact, None where nothing is, and its files' digests and sizes."""
        try:
            stored = json.loads((folder / MANIFEST).read_text())["files"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            return f"its manifest cannot be read: {error}", {}
        files = _facts(folder)
        for name in sorted(stored.keys() | files.keys()):
            if name not in files:
                return f"{name} is missing", files
            if name not in stored:
                return f"{name} was added", files
            if tuple(stored[name]) != files[name]:
                return f"{name} was changed", files
        return None, files


def _facts(folder: Path) -> dict[str, tuple[str, int]]:
    """Digest and size of each file below a folder, but the manifest, by its relative name."""
    return {
        path.relative_to(folder).as_posix(): (file_digest(path), path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }


def _digest_of(files: dict[str, tuple[str, int]]) -> str:
    return hashlib.sha256("".join(f"{name}\0{digest}\n" for name, (digest, _) in files.items()).encode()).hexdigest()


@contextmanager
def refusals(root: Path, lock: Any = None) -> Iterator[None]:
    """Turn the file system's refusals into one line that says what to do; hold the lock meanwhile."""
    try:
        if lock is None:
            yield
        else:
            with lock:
                yield
    except BenchError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free_mb = shutil.disk_usage(root).free / 1e6
            what = f"the disk is full ({free_mb:.1f} MB free)"
            raise CacheError(f"cannot write the cache at {root}: {what}; free some or choose --bench-cache") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise CacheError(
                f"cannot write the cache at {root}: {error.strerror}; choose another by --bench-cache"
            ) from error
        raise
