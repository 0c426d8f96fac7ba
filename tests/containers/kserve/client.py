"""What a user of KServe's client does: asks whether all is ready, and for answers in JSON, in binary and over gRPC.

Takes a model's name and its inputs as JSON, and prints one JSON object: what was ready, and for each way the answer.
"""

import asyncio
import json
import sys
from typing import Any

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import InferResponse, RequestedOutput

_URL, _GRPC = "http://127.0.0.1:8080", "127.0.0.1:8081"
_TYPES = {"FP32": np.float32, "INT64": np.int64, "BYTES": np.object_}


def _request(model: str, inputs: list[dict[str, Any]], outputs: list[str], *, binary: bool) -> InferRequest:
    made = []
    for each in inputs:
        tensor = InferInput(each["name"], each["shape"], each["datatype"])
        value = np.array(each["data"], _TYPES[each["datatype"]]).reshape(each["shape"])
        tensor.set_data_from_numpy(value, binary_data=binary)
        made.append(tensor)
    wanted = [RequestedOutput(name, {"binary_data": binary}) for name in outputs]
    return InferRequest(model, made, request_id="mine", request_outputs=wanted)


def _told(answer: InferResponse) -> dict[str, Any]:
    outputs = {}
    for output in answer.outputs:
        values = output.as_numpy()
        flat = [each.decode() if isinstance(each, bytes) else each for each in values.ravel().tolist()]
        outputs[output.name] = {"datatype": output.datatype, "shape": list(values.shape), "data": flat}
    return {"id": answer.id, "outputs": outputs}


async def _main(model: str, inputs: list[dict[str, Any]], outputs: list[str]) -> dict[str, Any]:
    rest = InferenceRESTClient(RESTConfig(protocol="v2"))
    grpc = InferenceGRPCClient(_GRPC)
    asked = {
        "live": (rest.is_server_live(_URL), grpc.is_server_live()),
        "ready": (rest.is_server_ready(_URL), grpc.is_server_ready()),
        "model": (rest.is_model_ready(_URL, model), grpc.is_model_ready(model)),
    }
    told: dict[str, Any] = {name: await asyncio.gather(*each) for name, each in asked.items()}
    for way, binary in (("json", False), ("binary", True)):
        request = _request(model, inputs, outputs, binary=binary)
        told[way] = _told(await rest.infer(_URL, request, model_name=model))
    told["grpc"] = _told(await grpc.infer(_request(model, inputs, outputs, binary=True)))
    await rest.close()
    await grpc.close()
    return told


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_main(*map(json.loads, sys.argv[1:])))))
