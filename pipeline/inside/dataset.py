"""What a split holds, by content."""

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset


class _Strange(Exception):
    """Something that has no bytes of its own."""


def described(split: Dataset[Any]) -> dict[str, Any]:
    """How many `items` a split holds, and the `sha256` of all that they hold, in their order; empty where an item holds
    what has no bytes of its own."""
    digest = hashlib.sha256()
    count = len(split)
    try:
        for number in range(count):
            _add(split[number], digest)
    except _Strange as strange:
        print(f"an item holds {strange}, which has no bytes of its own: nobody could say what was trained on,")
        print("so that `inv release` will refuse the model")
        return {"items": count, "sha256": ""}
    return {"items": count, "sha256": digest.hexdigest()}


def _add(part: Any, digest: "hashlib._Hash") -> None:
    """Adds a part and its kind, so that no two parts that differ give the same bytes."""
    if isinstance(part, Tensor):
        if part.layout != torch.strided or part.is_quantized or part.is_nested:
            raise _Strange("a tensor that is sparse, quantized or nested")
        content = part.detach().cpu().resolve_conj().resolve_neg().contiguous().flatten()
        digest.update(f"tensor {part.dtype} {tuple(part.shape)}\n".encode())
        digest.update(content.view(torch.uint8).numpy().data if content.numel() else b"")
    elif isinstance(part, np.ndarray | np.generic):
        if part.dtype.hasobject:
            raise _Strange("an array of objects")
        digest.update(f"array {part.dtype.str} {part.shape}\n".encode())
        digest.update(np.ascontiguousarray(part).tobytes())
    elif isinstance(part, str | bytes):
        content_bytes = part.encode(errors="surrogatepass") if isinstance(part, str) else part
        digest.update(f"{type(part).__name__} {len(content_bytes)}\n".encode() + content_bytes)
    elif part is None or isinstance(part, bool | int | float):
        digest.update(f"{type(part).__name__} {part!r}\n".encode())
    elif isinstance(part, list | tuple):
        digest.update(f"list {len(part)}\n".encode())
        for each in part:
            _add(each, digest)
    elif isinstance(part, dict):
        digest.update(f"dict {len(part)}\n".encode())
        for each in part.items():
            _add(each, digest)
    else:
        raise _Strange(f"a {type(part).__name__}")
