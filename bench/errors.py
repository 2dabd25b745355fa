"""The harness's errors. Each message names what was asked, what there is and what to do."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path


class BenchError(Exception):
    """Base of all errors whose message is one line for the user; the plugin and the command line print it bare."""


class UnknownMember(BenchError):
    """A name that no registry holds."""


class BadCase(BenchError):
    """A case, grid or baseline with impossible axes."""


class DataError(BenchError):
    """Data or weights that are missing, truncated or of the wrong shape."""


class LackingData(DataError):
    """Data or weights that this machine lacks but could have."""


class CacheError(BenchError):
    """The artefact store cannot be written or read."""


class BuildError(BenchError):
    """An engine could not make its artefact."""


class Unsupported(BuildError):
    """An engine cannot do what is asked for this network; known only once the network is built."""


class WorkerError(BenchError):
    """A worker process died, hung or answered with an error."""


class BaselineError(BenchError):
    """The case can be measured, but its baseline cannot."""


class RunFileError(BenchError):
    """A file that is not a saved run."""


class BadLimit(BenchError):
    """A limit of a comparison or gate that names nothing known, or is not a number."""


class MergeError(BenchError):
    """Saved runs that are not shards of the same run."""


class BenchWarning(UserWarning):
    """Something the user should know that does not stop the run."""


@contextmanager
def refusals(root: Path, lock: AbstractContextManager[object] | None = None) -> Iterator[None]:
    """Turn the file system's errors into a CacheError that says what to do; hold the lock meanwhile."""
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
