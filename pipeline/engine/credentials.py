"""Who we are to a registry: what `docker login` stored, and no other source."""

from typing import Any

from docker import auth
from docker.errors import DockerException

from pipeline.errors import RegistryError


def credentials(host: str) -> tuple[str, str] | None:
    """The user name and the password or token for a registry, or None where nobody logged in.

    Raises:
        RegistryError: Docker's configuration, or the helper that it names, does not give them.
    """
    try:
        found: dict[str, Any] | None = auth.load_config().resolve_authconfig(host)
    except DockerException as error:
        raise RegistryError(
            f"Docker's credentials for {host} cannot be read ({error}). Run `docker login {host}` again."
        ) from error
    if not found:
        return None
    # A token that a helper gives in a name's place is called so: https://docs.docker.com/reference/cli/docker/login/
    name = found.get("username") or found.get("Username") or "<token>"
    secret = found.get("password") or found.get("Password") or found.get("identitytoken") or found.get("IdentityToken")
    return (str(name), str(secret)) if secret else None
