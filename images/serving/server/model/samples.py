"""The samples: inputs, and the answers that the trained model gave to them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors

from server.errors import ContractInvalid
from server.model import strings
from server.model.contract import Contract, Tensor
from server.model.engine import Bytes, Input
from server.model.strings import NotStrings

PROBES = "probes.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """The answer for one output: row-major little-endian bytes, or strings as `server.model.strings` says.

    `rounding` is what it may be off by beyond the contract's tolerance.
    """

    shape: tuple[int, ...]
    content: Bytes
    rounding: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Inputs in forward()'s order, and the expected answer of each output by name."""

    inputs: tuple[Input, ...]
    outputs: dict[str, Expected]


def probes(contract: Contract, folder: Path) -> tuple[Sample, ...]:
    """The probes that lie in a model's folder, if any do; an image has none.

    Raises:
        ContractInvalid: they are not safetensors, or do not fit the contract.
    """
    path = folder / PROBES
    if not path.is_file():
        return ()
    found = read(contract, path, empty=True)
    if not contract.rounding:
        return found
    names = [tensor.name for tensor in contract.outputs]
    if [len(each) for each in contract.rounding] != [len(names)] * len(found):
        raise ContractInvalid(
            f"{path}: {len(found)} probes of {len(names)} outputs do not fit what the contract says of their rounding. "
            "Export the model again."
        )
    return tuple(
        replace(probe, outputs={n: replace(probe.outputs[n], rounding=r) for n, r in zip(names, most, strict=True)})
        for probe, most in zip(found, contract.rounding, strict=True)
    )


def read(contract: Contract, path: Path, *, empty: bool = False) -> tuple[Sample, ...]:
    """Reads the samples: tensors named `{i}/input/{name}` and `{i}/output/{name}`, i = 0, 1, 2, …

    Strings are kept as UINT8 [bytes].

    Raises:
        ContractInvalid: they are not safetensors, there are none (unless `empty`), or they do not fit the contract.
    """
    try:
        tensors = dict(safetensors.deserialize(path.read_bytes()))  # type: ignore[no-untyped-call]
    except (OSError, safetensors.SafetensorError) as error:
        raise ContractInvalid(f"{path}: not readable as safetensors ({error}). Export the model again.") from error
    size = len(contract.inputs) + len(contract.outputs)
    count, rest = divmod(len(tensors), size)
    if (not count and not empty) or rest:
        raise ContractInvalid(
            f"{path}: {len(tensors)} tensors do not make whole samples of {len(contract.inputs)} inputs and "
            f"{len(contract.outputs)} outputs. Export the model again."
        )
    try:
        return tuple(_sample(contract, tensors, index) for index in range(count))
    except (KeyError, ValueError) as error:
        raise ContractInvalid(f"{path}: does not fit the contract: {error}. Export the model again.") from error


def _sample(contract: Contract, tensors: dict[str, Any], index: int) -> Sample:
    inputs = []
    for tensor in contract.inputs:
        shape, content = _tensor(tensors, f"{index}/input/{tensor.name}", tensor)
        inputs.append((tensor.datatype.name, shape, content))
    outputs = {}
    for tensor in contract.outputs:
        shape, content = _tensor(tensors, f"{index}/output/{tensor.name}", tensor)
        outputs[tensor.name] = Expected(shape=shape, content=content)
    return Sample(inputs=tuple(inputs), outputs=outputs)


def _tensor(tensors: dict[str, Any], key: str, declared: Tensor) -> tuple[tuple[int, ...], Bytes]:
    found = tensors[key]
    shape = tuple(found["shape"])
    if declared.datatype.kind == "string" and found["dtype"] == declared.datatype.safetensors:
        try:
            shape = (len(strings.decode(found["data"])),)
        except NotStrings as error:
            raise ValueError(f"{key}, {error}") from error
    if found["dtype"] != declared.datatype.safetensors or not declared.fits(shape):
        raise ValueError(
            f"{key} is {found['dtype']} {list(shape)}, declared are "
            f"{declared.datatype.safetensors} {list(declared.shape)}"
        )
    return shape, found["data"]
