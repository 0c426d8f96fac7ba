"""What this model's server takes and gives over REST, as an OpenAPI document: https://spec.openapis.org/oas/v3.1.0"""

from typing import Any

from server import __version__
from server.model.contract import Contract, Tensor
from server.model.datatypes import Datatype

_REF = "#/components/schemas/"
_PARAMETERS = {"type": "object"}


def document(contract: Contract) -> dict[str, Any]:
    """The document. A schema cannot say how binary tensors follow the JSON; a description does."""
    paths: dict[str, Any] = {
        "/v2": {"get": _get("Server metadata", {"type": "object"})},
        "/v2/": {"get": _get("Server metadata", {"type": "object"})},
        "/openapi.json": {"get": _get("This document", {"type": "object"})},
        "/v2/health/live": {"get": _get("Whether the server lives", {"type": "object"})},
        "/v2/health/ready": {"get": _get("Whether the model is ready", {"type": "object"})},
        "/v2/models/stats": {"get": _get("Statistics", {"type": "object"})},
        "/v2/repository/index": {"post": _index()},
        "/metrics": {"get": _text("Metrics in Prometheus' text format")},
    }
    for path in (f"/v2/models/{contract.name}", f"/v2/models/{contract.name}/versions/{contract.version}"):
        paths[path] = {"get": _get("Model metadata", {"type": "object"})}
        paths[f"{path}/ready"] = {"get": _get("Whether the model is ready", {"type": "object"})}
        paths[f"{path}/config"] = {"get": _get("Model configuration", {"type": "object"})}
        paths[f"{path}/stats"] = {"get": _get("Statistics", {"type": "object"})}
        paths[f"{path}/infer"] = {"post": _infer()}
    return {
        "openapi": "3.1.0",
        "info": {"title": contract.name, "version": contract.version, "description": f"torchyard {__version__}"},
        "paths": paths,
        "components": {"schemas": _schemas(contract)},
    }


def _schemas(contract: Contract) -> dict[str, Any]:
    return {
        "Error": _object({"error": {"type": "string"}}),
        "Request": {
            "type": "object",
            "required": ["inputs"],
            "properties": {
                "id": {"type": "string"},
                "parameters": _PARAMETERS,
                "inputs": {
                    "type": "array",
                    "minItems": len(contract.inputs),
                    "maxItems": len(contract.inputs),
                    "items": {"oneOf": [_tensor(tensor, given=True) for tensor in contract.inputs]},
                },
                "outputs": {
                    "type": "array",
                    "maxItems": len(contract.outputs),
                    "items": {
                        "type": "object",
                        "required": ["name"],
                        "properties": {
                            "name": {"enum": [tensor.name for tensor in contract.outputs]},
                            "parameters": _PARAMETERS,
                        },
                    },
                },
            },
        },
        "Response": {
            "type": "object",
            "required": ["model_name", "model_version", "outputs"],
            "properties": {
                "model_name": {"const": contract.name},
                "model_version": {"const": contract.version},
                "id": {"type": "string"},
                "parameters": _PARAMETERS,
                "outputs": {
                    "type": "array",
                    "items": {"oneOf": [_tensor(tensor, given=False) for tensor in contract.outputs]},
                },
            },
        },
    }


def _tensor(tensor: Tensor, *, given: bool) -> dict[str, Any]:
    sizes = [{"type": "integer", "minimum": 0} if size < 0 else {"const": size} for size in tensor.shape]
    shape = {"type": "array", "minItems": len(sizes), "maxItems": len(sizes)}
    return {
        "type": "object",
        "required": ["name", "datatype", "shape", *(["data"] if given else [])],
        "properties": {
            "name": {"const": tensor.name},
            "datatype": {"const": tensor.datatype.name},
            "shape": {**shape, "prefixItems": sizes} if sizes else shape,
            "parameters": _PARAMETERS,
            "data": {"type": "array", "items": _element(tensor.datatype)},
        },
    }


def _element(datatype: Datatype) -> dict[str, Any]:
    if datatype.kind in {"boolean", "string"}:
        return {"type": datatype.kind}
    return {"type": datatype.kind, "minimum": datatype.least, "maximum": datatype.most}


_BINARY = (
    "The JSON, whose length the header Inference-Header-Content-Length says, and after it the bytes of the tensors "
    "that have parameters.binary_data_size instead of data, in their order: "
    "https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md"
)
_BYTES = {"schema": {"type": "string", "format": "binary"}}


def _infer() -> dict[str, Any]:
    body = {
        "required": True,
        "description": f"JSON, or binary. {_BINARY}",
        "content": {"application/json": {"schema": {"$ref": f"{_REF}Request"}}, "application/octet-stream": _BYTES},
    }
    answers = _answers(
        f"The outputs as JSON, or binary where that is asked for. {_BINARY}", {"$ref": f"{_REF}Response"}
    )
    answers["200"]["content"]["application/octet-stream"] = _BYTES
    number = {"type": "integer", "minimum": 0}
    encoding = {"type": "string", "enum": ["gzip", "deflate", "identity"]}
    headers = [
        _header("Inference-Header-Content-Length", "How many bytes of JSON come before binary tensors", number),
        _header("Content-Encoding", "How the body is compressed", encoding),
    ]
    return {"summary": "Inference", "parameters": headers, "requestBody": body, "responses": answers}


def _header(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "header", "description": description, "schema": schema}


def _index() -> dict[str, Any]:
    schema = {"type": "object", "properties": {"ready": {"type": "boolean"}}}
    answer = {"type": "array", "items": {"type": "object"}}
    body = {"content": {"application/json": {"schema": schema}}}
    return {"summary": "The models", "requestBody": body, "responses": _answers("The models", answer)}


def _get(summary: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"summary": summary, "responses": _answers(summary, schema)}


def _text(summary: str) -> dict[str, Any]:
    return {"summary": summary, "responses": {"200": {"description": summary, "content": {"text/plain": {}}}}}


def _answers(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    error = {"description": "What is wrong", "content": {"application/json": {"schema": {"$ref": f"{_REF}Error"}}}}
    answer = {"description": description, "content": {"application/json": {"schema": schema}}}
    return {"200": answer, "default": error}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}
