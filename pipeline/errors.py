"""Every expected way to stop, each with its own exit code.

Exit code 1 is for bugs, which keep their traceback, and 2 for a wrong command line (both invoke's own).
"""

from typing import ClassVar


class PipelineError(Exception):
    """Something a person can put right. The message says what happened, what it means and what to do."""

    exit_code: ClassVar[int]


class SpecError(PipelineError):
    """model.yaml, or a model's folder, is not what the contract in model_src/README.md asks for."""

    exit_code = 3


class PinsError(PipelineError):
    """images/pins.toml is wrong, or something that it pins is not to be had."""

    exit_code = 4


class DriftError(PipelineError):
    """A root resolved to other packages than recorded, and --locked forbids it."""

    exit_code = 5


class EngineError(PipelineError):
    """No container engine can be used, or it went away while we used it."""

    exit_code = 6


class SpaceError(PipelineError):
    """A disk is full, or too full to start."""

    exit_code = 7


class BuildError(PipelineError):
    """An image could not be built."""

    exit_code = 8


class RecordError(PipelineError):
    """A record in build/ is missing, unreadable, or its files are not the ones it names."""

    exit_code = 9


class TrainError(PipelineError):
    """Training failed, or the trained model is below the floor that model.yaml sets."""

    exit_code = 10


class ExportError(PipelineError):
    """The model could not be turned into a TorchScript archive that computes the same."""

    exit_code = 11


class CheckError(PipelineError):
    """The archive and the runtime image do not fit, or the archive is not what it claims to be."""

    exit_code = 12


class AssembleError(PipelineError):
    """The serving image could not be put together from its parts."""

    exit_code = 13


class AuditError(PipelineError):
    """The image breaks a rule of the serving image."""

    exit_code = 14


class SmokeError(PipelineError):
    """The running container does not behave as the production contract asks."""

    exit_code = 15


class TestsFailed(PipelineError):
    """A linter or a test found something."""

    exit_code = 16


class ContainerFailed(PipelineError):
    """A container that we ran ended with an error. Steps turn it into their own error; `code` is its exit code.

    `hung` tells of one that did not end in the time that it had, and was stopped.
    """

    exit_code = 17

    def __init__(self, message: str, *, code: int = 137, hung: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.hung = hung


class BenchError(PipelineError):
    """Under load, a served model answered wrongly or not at all: what was measured of it means little."""

    exit_code = 30


class SoakError(PipelineError):
    """Over time, a served model answered wrongly, or grew."""

    exit_code = 31


class StormError(PipelineError):
    """Stopped under load, a server lost requests, or did not end as it should."""

    exit_code = 32


class CompileError(PipelineError):
    """The model's own operators do not compile."""

    exit_code = 18


class RegistryError(PipelineError):
    """A registry does not answer or refuses."""

    exit_code = 19


class ContentError(RegistryError):
    """What a registry has is not what it should be: missing, damaged, or written by somebody else."""


class ReleaseError(PipelineError):
    """The image could not be released: a verdict is missing or about something else, or signing failed."""

    exit_code = 20


class VerifyError(PipelineError):
    """What hangs on a digest in a registry is not what a release has to carry."""

    exit_code = 21


class PromoteError(PipelineError):
    """The image may not go to a channel, or the channel is not in order."""

    exit_code = 22


class SettingsError(PipelineError):
    """torchyard.toml or promotion.toml is wrong."""

    exit_code = 23


class CosignError(PipelineError):
    """cosign did not do what it is for, which says nothing about any signature."""

    exit_code = 24
