"""What Docker's SDK raises, told as our own errors."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import requests
from docker.errors import APIError, DockerException
from urllib3.exceptions import ProtocolError

from pipeline.errors import EngineError, SpaceError

_TAKEN = re.compile(r'container name "/?([\w.-]+)" is already in use')


@contextmanager
def engine_errors() -> Iterator[None]:
    """Turns what the SDK raises into our errors: an engine that went away, a full disk, a refusal."""
    try:
        yield
    except APIError as error:
        reason = error.explanation or str(error)
        if "no space left on device" in reason.lower():
            raise SpaceError(
                f"The engine's disk is full ({reason}). Free some space, for example with `inv clean`."
            ) from error
        if taken := _TAKEN.search(reason):
            raise EngineError(
                f"There is a container {taken[1]}: another command runs it, or one that was killed left it, and then "
                f"`docker rm --force {taken[1]}` removes it."
            ) from error
        raise EngineError(f"The container engine refused: {reason}") from error
    except (DockerException, requests.RequestException, ProtocolError) as error:
        raise EngineError(
            f"The container engine stopped answering ({short(error)}). Nothing half-made was kept; "
            "start it again (`inv doctor` shows how) and run the same command."
        ) from error


def short(error: BaseException) -> str:
    """The innermost reason of a chain of wrapped connection errors."""
    return re.sub(r"^.*?: (?=\[Errno|\w+Error)", "", str(error))[:200]
