"""Every expected way to stop, each with its own exit code.

Exit code 1 is for bugs, which keep their traceback, and 2 for a wrong command line or environment.
"""

from typing import ClassVar


class StartError(Exception):
    """The model cannot be served, or its server cannot end as it should.

    The message says what happened, what it means and what to do.
    """

    exit_code: ClassVar[int]


class SettingsError(StartError):
    """An environment variable is not what it must be."""

    exit_code = 2


class SamplesDisagree(StartError):
    """The model does not give the answers that the trained model gave."""

    exit_code = 3


class DigestMismatch(StartError):
    """A file is not the one that the contract names."""

    exit_code = 4


class LoadFailed(StartError):
    """The archive does not load in this runtime."""

    exit_code = 5


class ContractInvalid(StartError):
    """The contract or the samples are missing or cannot be read."""

    exit_code = 6


class RunStuck(StartError):
    """A run of the model did not end before the server had to."""

    exit_code = 7
