"""The state of a training run after its last whole epoch: written atomically, used only by a run with the same key."""

import os
import pickle
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer


def save(path: Path, *, key: str, epoch: int, model: nn.Module, optimizer: Optimizer) -> None:
    """Keeps the state after `epoch` whole epochs."""
    half = path.with_name(f".{path.name}")
    state = {"key": key, "epoch": epoch, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    with half.open("wb") as stream:
        torch.save(state, stream)
        stream.flush()
        os.fsync(stream.fileno())
    half.replace(path)


def restore(path: Path, *, key: str, model: nn.Module, optimizer: Optimizer) -> int:
    """Puts a checkpoint with the same key back into model and optimizer; says what it found. Returns epochs done."""
    if not path.is_file():
        return 0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        found = state["key"]
    except (RuntimeError, EOFError, OSError, KeyError, TypeError, pickle.UnpicklingError) as error:
        print(f"the checkpoint cannot be read ({error}): starting from the first epoch")
        return 0
    if found != key:
        print("the checkpoint is of other inputs: starting from the first epoch")
        return 0
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    epoch = int(state["epoch"])
    print(f"resuming after epoch {epoch}")
    return epoch
