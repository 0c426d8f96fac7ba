"""What goes over the wire in tests: numpy's datatypes, and requests that are nearly right, for property-based tests and
for the fuzzers of a container.
"""

from importlib import resources
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from grpc_tools import protoc
from hypothesis import strategies as st

from server.grpc import messages
from server.grpc.messages import Messages
from server.model.datatypes import DATATYPES

PROTO = Path(__file__).resolve().parents[3] / "images" / "serving" / "proto"
# What numpy calls the datatypes but BYTES.
NUMPY: dict[str, Any] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "FP32": np.float32,
    "FP64": np.float64,
}
_WORDS = ("x", "y", "tiny", "perceptron", "1.0.0", "FP32", "BYTES", "", "binary_data", "\ud7ff", "a" * 300)
_SIZES = (0, 1, 3, 10, -1, 2**31, 2**62, 2**63 - 1, -(2**63))
# The last one is the longest that Python reads: it does not print a longer one, as their product would be.
_NUMBERS = st.one_of(st.sampled_from((*_SIZES, 10**4299)), st.integers(-(2**70), 2**70), st.floats())


def compiled(folder: Path) -> Messages:
    """The descriptors of the gRPC messages, as protoc makes them while the image is built."""
    out = folder / "protocols.binpb"
    files = sorted(str(path) for path in PROTO.glob("*.proto"))
    own = str(resources.files("grpc_tools") / "_proto")
    assert protoc.main(["protoc", f"-I{PROTO}", f"-I{own}", f"--descriptor_set_out={out}", *files]) == 0
    return messages.load(out)


def messages_of(found: Messages, descriptor: Descriptor, depth: int = 3) -> st.SearchStrategy[Any]:
    """Messages of a type, with any of its fields set to what is likely or is not."""
    kind = found.get(descriptor.full_name)
    fields = {
        field.name: _field(found, field, depth)
        for field in descriptor.fields
        if depth or field.type != FieldDescriptor.TYPE_MESSAGE
    }
    # At most one field of each oneof: the last one that is set wins anyway.
    return st.fixed_dictionaries({}, optional=fields).map(lambda values: kind(**values))


def _field(found: Messages, field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        assert field.message_type
        if field.message_type.GetOptions().map_entry:
            value = _field(found, field.message_type.fields_by_name["value"], depth - 1)
            return st.dictionaries(st.sampled_from(_WORDS), value, max_size=2)
        one = messages_of(found, field.message_type, depth - 1)
    else:
        one = _scalar(field)
    return st.lists(one, max_size=3) if field.is_repeated else one


def _scalar(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.type == FieldDescriptor.TYPE_STRING:
        return st.one_of(st.sampled_from(_WORDS), st.text(max_size=20))
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.one_of(st.binary(max_size=60), st.just(bytes(40)))
    if field.type == FieldDescriptor.TYPE_BOOL:
        return st.booleans()
    if field.type == FieldDescriptor.TYPE_ENUM:
        assert field.enum_type
        return st.sampled_from([value.number for value in field.enum_type.values])
    if field.type in {FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE}:
        return st.floats(width=32)
    bits = 32 if field.type in {FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_UINT32} else 64
    signed = field.type in {FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64}
    least, most = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    likely = [size for size in _SIZES if least <= size <= most]
    return st.one_of(st.sampled_from(likely), st.integers(least, most))


_ANY = st.recursive(
    st.none() | st.booleans() | _NUMBERS | st.sampled_from(_WORDS) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(_WORDS), inner, max_size=3),
    max_leaves=12,
)
_PARAMETERS = st.dictionaries(
    st.sampled_from(("binary_data", "binary_data_size", "binary_data_output", "timeout", "classification", "mine")),
    _ANY | st.just(40),
    max_size=3,
)
_TENSORS = st.fixed_dictionaries(
    {"name": st.sampled_from(_WORDS) | _ANY, "datatype": st.sampled_from((*DATATYPES, "FP8")) | _ANY},
    optional={
        "shape": st.lists(_NUMBERS | st.sampled_from(_SIZES), max_size=4) | _ANY,
        "data": st.lists(_NUMBERS, max_size=12) | _ANY,
        "parameters": _PARAMETERS | _ANY,
    },
)
# What json.dumps takes and a server may be sent; NaN and infinity among it, which are no JSON.
REQUESTS: st.SearchStrategy[Any] = st.one_of(
    _ANY,
    st.fixed_dictionaries(
        {},
        optional={
            "id": st.text(max_size=5) | _ANY,
            "parameters": _PARAMETERS | _ANY,
            "inputs": st.lists(_TENSORS | _ANY, max_size=3) | _ANY,
            "outputs": st.lists(_TENSORS | _ANY, max_size=3) | _ANY,
        },
    ),
)
