"""Runs in the training image: no two splits that differ have one digest, and what has no bytes of its own has none."""

from typing import Any

import numpy as np
import torch

from pipeline.inside.dataset import described

# Each differs from every other one in something that a model could learn from.
_SPLITS: list[list[Any]] = [
    [],
    [()],
    [(1,)],
    [(1,), (1,)],
    [(1, 1)],
    [((1,), 1)],
    [(1.0,)],
    [(True,)],
    [(None,)],
    [("1",)],
    [(b"1",)],
    [("a", "b")],
    [("ab", "")],
    [(0.0,)],
    [(-0.0,)],
    [(torch.tensor(1),)],
    [(torch.tensor([1]),)],
    [(torch.tensor([1], dtype=torch.int32),)],
    [(torch.tensor([[1, 2], [3, 4]]),)],
    [(torch.tensor([[1, 3], [2, 4]]),)],
    [(torch.tensor([1, 2, 3, 4]),)],
    [(torch.tensor([True]),)],
    [(torch.tensor([1.0], dtype=torch.bfloat16),)],
    [(torch.tensor([1 + 2j]),)],
    [(torch.tensor([1 + 2j]).conj(),)],
    [(torch.zeros(0, 3),)],
    [(torch.zeros(3, 0),)],
    [(np.array([1]),)],
    [(np.array([1.0]),)],
    [(np.int64(1),)],
    [({"x": 1},)],
    [({"y": 1},)],
]


def _each_has_its_own() -> None:
    digests = [described(split)["sha256"] for split in _SPLITS]
    assert all(len(digest) == 64 for digest in digests)
    assert len(set(digests)) == len(_SPLITS)
    assert [described(split)["items"] for split in _SPLITS] == [len(split) for split in _SPLITS]


def _content_counts_and_not_how_it_lies_in_memory() -> None:
    square = torch.arange(6.0).reshape(2, 3)
    assert described([square.T]) == described([square.T.contiguous()])
    assert described([square.numpy().T]) == described([np.ascontiguousarray(square.numpy().T)])
    assert described([torch.tensor([1 + 2j]).conj()]) == described([torch.tensor([1 - 2j])])
    assert described([square.requires_grad_()]) == described([square.detach()])


def _what_has_no_bytes_of_its_own_has_no_digest() -> None:
    for strange in (object(), {1, 2}, np.array([object()]), torch.eye(2).to_sparse(), described):
        assert described([(1, strange)]) == {"items": 1, "sha256": ""}


if __name__ == "__main__":
    _each_has_its_own()
    _content_counts_and_not_how_it_lies_in_memory()
    _what_has_no_bytes_of_its_own_has_no_digest()
    print("held")
