"""What the server says of itself and its model: metadata, and Triton's configuration, statistics and repository index.

Each is the JSON object of the REST protocol, and of the gRPC protocol the message with the same fields.
https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
https://github.com/triton-inference-server/server/tree/main/docs/protocol
"""

from server import __version__
from server.inference.statistics import Statistics, Tally
from server.model.contract import Contract, Tensor

_PLATFORM = "pytorch_torchscript"
# As the protocol names those of its extensions that this server has.
_EXTENSIONS = ["binary_tensor_data", "model_configuration", "statistics", "model_repository"]

_STATES = {
    "loading": ("LOADING", ""),
    "rehearsing": ("LOADING", ""),
    "ready": ("READY", ""),
    "draining": ("UNAVAILABLE", "the server is stopping"),
}


def server_metadata() -> dict[str, object]:
    """Name, version and extensions."""
    return {"name": "torchyard", "version": __version__, "extensions": _EXTENSIONS}


def metadata(contract: Contract) -> dict[str, object]:
    """What the model takes and gives; -1 is a free dimension."""
    return {
        "name": contract.name,
        "versions": [contract.version],
        "platform": _PLATFORM,
        "inputs": [_tensor(tensor) for tensor in contract.inputs],
        "outputs": [_tensor(tensor) for tensor in contract.outputs],
    }


def configuration(contract: Contract) -> dict[str, object]:
    """The part of Triton's model configuration that means something here.

    Where requests are run together, Triton leaves their first dimension out of `dims`.
    """
    size = contract.batching.max_size if contract.batching.max_size > 1 else 0
    config: dict[str, object] = {
        "name": contract.name,
        "platform": _PLATFORM,
        "backend": "torchyard",
        "max_batch_size": size,
        "input": [_configured(tensor, bool(size)) for tensor in contract.inputs],
        "output": [_configured(tensor, bool(size)) for tensor in contract.outputs],
        "default_model_filename": contract.archive.name,
    }
    if size:
        microseconds = round(contract.batching.max_delay_ms * 1e3)
        config["dynamic_batching"] = {"preferred_batch_size": [size], "max_queue_delay_microseconds": microseconds}
    return config


def statistics(contract: Contract, found: Statistics) -> dict[str, object]:
    """What Triton's statistics extension says of a model, times in nanoseconds."""
    none = Tally()
    durations = {
        "success": found.success,
        "fail": found.fail,
        "queue": found.queue,
        "compute_input": found.compute_input,
        "compute_infer": found.compute_infer,
        "compute_output": found.compute_output,
        "cache_hit": none,
        "cache_miss": none,
    }
    batches = [
        {
            "batch_size": size,
            "compute_input": _duration(executions.compute_input),
            "compute_infer": _duration(executions.compute_infer),
            "compute_output": _duration(executions.compute_output),
        }
        for size, executions in sorted(found.batches.items())
    ]
    model = {
        "name": contract.name,
        "version": contract.version,
        "last_inference": found.last_inference_ms,
        "inference_count": found.inferences,
        "execution_count": found.executions,
        "inference_stats": {name: _duration(tally) for name, tally in durations.items()},
        "batch_stats": batches,
    }
    return {"model_stats": [model]}


def index(contract: Contract, state: str, *, ready: bool) -> list[dict[str, str]]:
    """The repository's only model; with `ready`, only if it is."""
    word, reason = _STATES[state]
    if ready and word != "READY":
        return []
    return [{"name": contract.name, "version": contract.version, "state": word, "reason": reason}]


def _tensor(tensor: Tensor) -> dict[str, object]:
    return {"name": tensor.name, "datatype": tensor.datatype.name, "shape": list(tensor.shape)}


def _configured(tensor: Tensor, batched: bool) -> dict[str, object]:
    kind = "STRING" if tensor.datatype.kind == "string" else tensor.datatype.name
    return {"name": tensor.name, "data_type": f"TYPE_{kind}", "dims": list(tensor.shape[1 if batched else 0 :])}


def _duration(tally: Tally) -> dict[str, int]:
    return {"count": tally.count, "ns": tally.ns}
