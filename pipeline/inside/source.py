"""model.py as the scripts see it: the functions that model_src/README.md asks for, found before the first epoch."""

import difflib
import functools
import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from pipeline.inside.order import Refused

Collate: TypeAlias = Callable[[list[Any]], Any]
REQUIRED = ("build", "data", "loss", "evaluate")
OPERATORS = Path("/torchyard/ops.so")


@functools.cache
def load_operators(library: Path = OPERATORS) -> tuple[str, ...]:
    """Loads the library of the model's own operators, if it has one. Returns the schemas that it registered, sorted.

    Raises:
        OSError: the library does not load.
    """
    if not library.is_file():
        return ()
    before = _schemas()
    torch.ops.load_library(str(library))
    return tuple(sorted(_schemas() - before))


def _schemas() -> set[str]:
    return {str(schema) for schema in torch._C._jit_get_all_schemas()}


def load(folder: Path) -> ModuleType:
    """Imports `folder`/model.py under the name `model`; files beside it, and the operators in ops/, are at its hand.

    Raises:
        Refused: a function of the contract is missing.
    """
    load_operators()
    sys.path.append(str(folder))
    module = importlib.import_module("model")
    for name in REQUIRED:
        if not callable(getattr(module, name, None)):
            close = difflib.get_close_matches(name, vars(module), n=1)
            hint = f" Perhaps `{close[0]}` is meant to be it." if close else ""
            raise Refused(
                f"model.py has no function `{name}`.{hint} "
                f"A model.py defines {', '.join(f'`{each}`' for each in REQUIRED)}; model_src/README.md says how."
            )
    return module


def data(module: ModuleType, params: Mapping[str, Any]) -> tuple[Dataset[Any], Dataset[Any]]:
    """The training and the held-out split.

    Raises:
        Refused: `data` returned something else, or a split is empty.
    """
    splits = module.data(dict(params))
    if not isinstance(splits, tuple) or len(splits) != 2 or not all(hasattr(each, "__getitem__") for each in splits):
        raise Refused(f"`data` returned {splits!r:.100}. Return two datasets with a length: (training, held-out).")
    for name, split in zip(("training", "held-out"), splits, strict=True):
        if not len(split):
            raise Refused(f"The {name} split that `data` returned is empty. Both need at least one item.")
    return splits


def collate(module: ModuleType) -> Collate:
    """How items become a batch: model.py's own way, or PyTorch's."""
    own: Collate = getattr(module, "collate", default_collate)
    return own


def trained(module: ModuleType, params: Mapping[str, Any], weights: Path) -> nn.Module:
    """The model with its trained weights, in eval mode on the CPU.

    Raises:
        Refused: a weight is not finite.
    """
    model: nn.Module = module.build(dict(params))
    model.load_state_dict(load_file(weights))
    refuse_non_finite(model.state_dict(), "weight", "The training diverged: lower the learning rate and train again.")
    return model.cpu().eval()


def refuse_non_finite(tensors: Mapping[str, Tensor], kind: str, advice: str) -> None:
    """Raises Refused when a floating-point tensor holds a NaN or an infinity."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            broken = int((~tensor.isfinite()).sum())
            raise Refused(f"The {kind} `{name}` has {broken} of {tensor.numel()} values that are not finite. {advice}")
