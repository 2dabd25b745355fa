"""Digests of files: what keys and identities are made of."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path


def file_digest(path: Path) -> str:
    """The sha256 of a file's content, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_digest(path: Path) -> str:
    """The sha256 of a source file, hex; read again only where its size or time has changed."""
    status = path.stat()
    return _digest_as_of(path, status.st_size, status.st_mtime_ns)


@functools.cache
def _digest_as_of(path: Path, size: int, mtime_ns: int) -> str:
    return file_digest(path)
