"""Docker's push: an image into a registry, and which of its layers had to be sent."""

from typing import Any

import docker

from pipeline.engine import Image, Pushed
from pipeline.errors import RegistryError


def push(client: docker.DockerClient, image: Image, *, repository: str, tag: str) -> Pushed:
    """Pushes the image as `repository:tag`; the name is taken away from it in the engine afterwards.

    Raises:
        RegistryError: the registry does not answer, or refuses.
    """
    client.api.tag(image.digest, repository, tag)
    states: dict[str, str] = {}
    digest = ""
    try:
        for event in client.api.push(repository, tag=tag, stream=True, decode=True):
            if "error" in event:
                raise RegistryError(
                    f"{repository}:{tag} could not be pushed: {event['error']}. Does the registry run (`inv registry` "
                    f"starts a local one), and may you write to it (`docker login {repository.partition('/')[0]}`)? "
                    "Nothing was released; run it again."
                )
            states |= {event["id"]: event["status"]} if "id" in event else {}
            digest = _digest(event) or digest
    finally:
        client.api.remove_image(f"{repository}:{tag}", noprune=True)
    sent = {layer for layer, state in states.items() if state == "Pushed"}
    return Pushed(digest=digest, sent=tuple(each for each in image.diff_ids if each.split(":")[1][:12] in sent))


def _digest(event: dict[str, Any]) -> str:
    """The manifest's digest, which the engine tells at the end."""
    return str(event.get("aux", {}).get("Digest", ""))
