"""Trains a model: the same order gives the same weights, bit for bit, on the same machine, interrupted or not."""

import math
import random
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from pipeline.inside import checkpoint, dataset, source
from pipeline.inside.order import MODEL, Refused, answer, write_atomic


def main(order: dict[str, Any], out: Path) -> dict[str, Any]:
    """Writes out/weights.safetensors and returns the metrics on the held-out split, and what both splits hold."""
    seed(order["seed"])
    torch.use_deterministic_algorithms(True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    module, params = source.load(MODEL), order["params"]
    training, held_out = source.data(module, params)
    model: nn.Module = module.build(dict(params)).to(device)
    optimizer = _optimizer(module, model, params)
    rates = [group["lr"] for group in optimizer.param_groups]
    kept = out / "checkpoint.pt"
    done = checkpoint.restore(kept, key=order["key"], model=model, optimizer=optimizer)
    print(f"{len(training)} items to train on, {len(held_out)} held out, on {device}")

    started = time.monotonic()
    for epoch in range(done + 1, order["epochs"] + 1):
        began = time.monotonic()
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * decay(epoch, order["epochs"])
        loss = _epoch(module, model, optimizer, _batches(module, training, order, epoch), epoch, device)
        checkpoint.save(kept, key=order["key"], epoch=epoch, model=model, optimizer=optimizer)
        now = time.monotonic()
        eta = (now - started) / (epoch - done) * (order["epochs"] - epoch)
        print(f"epoch {epoch}/{order['epochs']}  loss {loss:.4f}  {now - began:.1f} s  eta {eta:.0f} s")

    metrics = _metrics(module, model, held_out)
    # After all that draws random numbers: items may, too.
    seed(order["seed"])
    data = {"training": dataset.described(training), "held-out": dataset.described(held_out)}
    write_atomic(out / "weights.safetensors", _serialized(model))
    return {"metrics": metrics, "data": data}


def seed(value: int) -> None:
    """Starts every random number generator that a model may use from `value`."""
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)


def decay(epoch: int, epochs: int) -> float:
    """What is left of the learning rate in an epoch, 1 for the first: half a cosine, so that the last steps are small.

    Source: Loshchilov and Hutter, SGDR, 2017, equation 5, without restarts. It depends on nothing but the epoch,
    which is what lets a resumed run go on without the state of a scheduler.
    """
    return (1 + math.cos(math.pi * (epoch - 1) / epochs)) / 2


def _optimizer(module: ModuleType, model: nn.Module, params: dict[str, Any]) -> Optimizer:
    if hasattr(module, "optimizer"):
        chosen: Optimizer = module.optimizer(model, dict(params))
        return chosen
    return torch.optim.Adam(model.parameters())


def _batches(module: ModuleType, training: Dataset[Any], order: dict[str, Any], epoch: int) -> DataLoader[Any]:
    """The training split in this epoch's order.

    Each epoch has its own seed, so that a resumed run needs no generator's state to go on as if never stopped.
    """
    own = order["seed"] + epoch
    seed(own)
    generator = torch.Generator().manual_seed(own)
    return DataLoader(
        training,
        batch_size=order["batch_size"],
        shuffle=True,
        generator=generator,
        collate_fn=source.collate(module),
    )


def _epoch(
    module: ModuleType, model: nn.Module, optimizer: Optimizer, batches: DataLoader[Any], epoch: int, device: str
) -> float:
    """One pass over the training split. Returns the mean loss of its batches."""
    model.train()
    total = 0.0
    for batch in batches:
        optimizer.zero_grad()
        loss: Tensor = module.loss(model, _to(batch, device))
        loss.backward()
        optimizer.step()
        total += loss.item()
        if not math.isfinite(total):
            raise Refused(
                f"The loss became {loss.item()} in epoch {epoch}. The training diverged: "
                "lower the learning rate or look for bad values in the data."
            )
    return total / len(batches)


def _to(part: Any, device: str) -> Any:
    """The tensors of a collated batch on `device`; strings stay where they are."""
    if isinstance(part, Tensor):
        return part.to(device)
    return [_to(each, device) for each in part] if isinstance(part, list | tuple) else part


def _metrics(module: ModuleType, model: nn.Module, held_out: Dataset[Any]) -> dict[str, float]:
    """What `evaluate` says of the trained model in eval mode on the CPU."""
    model.cpu().eval()
    source.refuse_non_finite(model.state_dict(), "weight", "Lower the learning rate and train again.")
    with torch.no_grad():
        metrics = {name: float(value) for name, value in module.evaluate(model, held_out).items()}
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise Refused(f"`evaluate` gave {value} as {name}. Look for a division by zero in model.py.")
    return metrics


def _serialized(model: nn.Module) -> bytes:
    """The weights as safetensors. Tied ones are written each: noting them once, save_model orders them at random."""
    return bytes(save({name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}))


if __name__ == "__main__":
    answer(main)
