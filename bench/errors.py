"""Every way the harness can refuse, each with a message that names what was asked, what there is and what to do."""


class BenchError(Exception):
    """Base of all errors whose message is one line for the user; the plugin and the command line print it bare."""


class UnknownMember(BenchError):
    """A name that no registry holds."""


class BadCase(BenchError):
    """A case whose axes cannot be."""


class DataError(BenchError):
    """Data or weights that are missing, truncated or of the wrong shape."""


class LackingData(DataError):
    """Data or weights that this machine has not, where it could."""


class CacheError(BenchError):
    """The artefact store cannot be written or read."""


class BuildError(BenchError):
    """An engine could not make its artefact."""


class Unsupported(BuildError):
    """What an engine cannot do for this network, known only once the network is there."""


class WorkerError(BenchError):
    """A worker process died, hung or answered with an error."""


class BaselineError(BenchError):
    """A baseline that cannot be measured, for a case that can."""


class RunFileError(BenchError):
    """A file that is not a saved run."""


class BadLimit(BenchError):
    """A limit of a comparison that names nothing, or is no number."""


class MergeError(BenchError):
    """Saved runs that are no shards of one run."""


class BenchWarning(UserWarning):
    """Something the user should know that does not stop the run."""
