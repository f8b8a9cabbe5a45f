"""The exceptions of this package: what was expected, what came, what to do."""


class PtychoPinnError(Exception):
    """Base of every error that a user can mend; the command line prints it and exits with 2."""


class ConfigError(PtychoPinnError, ValueError):
    """A setting has a value that it cannot have."""


class DataError(PtychoPinnError, ValueError):
    """A scan or an array is not what it must be."""


class ArchiveError(PtychoPinnError):
    """A model file cannot be read, or does not hold what its manifest promises."""


class OutputError(PtychoPinnError):
    """A result cannot be written."""


class UnknownBackendError(PtychoPinnError, ValueError):
    """No backend has this name."""


class BackendUnavailableError(PtychoPinnError):
    """The backend is known, but its framework is not installed or does not import."""


class DeviceMemoryError(PtychoPinnError, MemoryError):
    """A device has less memory than the work needs."""


class WorkerError(PtychoPinnError):
    """The process in which the framework runs failed, died or is stuck."""


class RankError(PtychoPinnError):
    """One of the processes that compute together has failed or died."""
