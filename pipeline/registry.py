"""The local registry: started on loopback from our own image, and stopped; what it keeps stays in its volume."""

import time

from pipeline import images
from pipeline.artifacts import Limits
from pipeline.engine import Engine, Service
from pipeline.errors import RegistryError
from pipeline.oci import Registry, Repository
from pipeline.pins import Pins

_LIMITS = Limits(memory=512, cpus=1, pids=64)
_SECONDS = 30.0


def start(port: int, *, pins: Pins, engine: Engine, registry: Registry) -> str:
    """Starts the registry on a port of loopback, or leaves it running; returns its address.

    Raises:
        RegistryError: it does not answer within 30 s.
    """
    image = images.registry(pins, engine=engine)
    engine.start(
        Service(name=_name(port), image=image.digest, port=port, inner=5000, folder="/var/lib/registry", limits=_LIMITS)
    )
    address = f"127.0.0.1:{port}"
    ends = time.monotonic() + _SECONDS
    while True:
        try:
            registry.tags(Repository(host=address, path="torchyard/nothing"))
        except RegistryError as error:
            if time.monotonic() > ends:
                raise RegistryError(
                    f"The registry did not answer at {address}: `docker logs {_name(port)}`."
                ) from error
            time.sleep(0.2)
        else:
            return address


def stop(port: int, *, engine: Engine) -> bool:
    """Stops the registry of a port; tells whether there was one."""
    return engine.stop(_name(port))


def _name(port: int) -> str:
    return f"torchyard-registry-{port}"
