"""A pair of keys to sign with."""

import os
from pathlib import Path

from pipeline.errors import ReleaseError
from pipeline.signing import Cosign


def keys(private: Path, *, cosign: Cosign) -> Path:
    """Makes a private key at `private`, encrypted and readable by its owner only, and the public one beside it.

    Returns the public key's path.

    Raises:
        ReleaseError: there is a key already, or no passphrase is given.
    """
    public = private.with_suffix(".pub")
    for path in (private, public):
        if path.exists():
            raise ReleaseError(
                f"{path}: is there already. What it signed verifies with no other; move it away if you want a new one."
            )
    secret, shown = cosign.generate()
    private.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    public.write_text(shown, encoding="utf-8")
    with os.fdopen(os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(secret)
    return public
