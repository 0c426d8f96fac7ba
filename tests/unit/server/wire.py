"""What goes over the wire in tests: numpy's datatypes, and requests that are nearly right, for property-based tests and
for the fuzzers of a container.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
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


def _values(datatype: str) -> st.SearchStrategy[Any]:
    """What a tensor of a datatype may hold."""
    if datatype == "BYTES":
        return st.text(max_size=10)
    if datatype == "BOOL":
        return st.booleans()
    if datatype.startswith(("FP", "BF")):
        return st.floats(-4, 4, width=16)
    limits = np.iinfo(NUMPY[datatype])
    return st.sampled_from((int(limits.min), int(limits.max), 0, 1))


@st.composite
def right(draw: st.DrawFn, inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Tensors that a model takes whose metadata has these `inputs`, as REST has them in JSON."""
    tensors = []
    for each in inputs:
        shape = [draw(st.integers(0, 3)) if size == -1 else size for size in each["shape"]]
        count = math.prod(shape)
        data = draw(st.lists(_values(each["datatype"]), min_size=count, max_size=count))
        tensors.append({"name": each["name"], "datatype": each["datatype"], "shape": shape, "data": data})
    return tensors


def raw(tensor: Mapping[str, Any]) -> bytes:
    """The content of a right tensor as it is sent in binary."""
    if tensor["datatype"] == "BYTES":
        parts = (text.encode() for text in tensor["data"])
        return b"".join(len(part).to_bytes(4, "little") + part for part in parts)
    return np.array(tensor["data"], NUMPY[tensor["datatype"]]).tobytes()


_WRONG: dict[str, st.SearchStrategy[Any]] = {
    "name": st.sampled_from(_WORDS) | _ANY,
    "datatype": st.sampled_from((*DATATYPES, "FP8")) | _ANY,
    "shape": st.lists(_NUMBERS | st.sampled_from(_SIZES), max_size=4) | _ANY,
    "data": st.lists(_NUMBERS, max_size=12) | _ANY,
    "parameters": _PARAMETERS | _ANY,
}


@st.composite
def nearly(draw: st.DrawFn, inputs: Sequence[Mapping[str, Any]]) -> tuple[Any, bytes]:
    """A request that such a model takes but for two things at most, and the binary tensors after it."""
    tensors = draw(right(inputs))
    contents = []
    for tensor in tensors if draw(st.booleans()) else ():
        contents.append(raw(tensor))
        del tensor["data"]
        tensor["parameters"] = {"binary_data_size": len(contents[-1])}
    for _ in range(draw(st.sampled_from((0, 0, 1, 1, 2)))):
        tensor, what = draw(st.sampled_from(tensors)), draw(st.sampled_from((*_WRONG, "twice", "gone", "size")))
        if what == "twice":
            tensors.append(dict(tensor))
        elif what == "gone" and len(tensors) > 1:
            tensors = [each for each in tensors if each is not tensor]
        elif what == "size":
            tensor["parameters"] = {"binary_data_size": draw(_NUMBERS | st.sampled_from(_SIZES))}
        elif what != "gone":
            tensor[what] = draw(_WRONG[what])
    return {"inputs": tensors}, b"".join(contents)


@st.composite
def nearly_a_message(draw: st.DrawFn, found: Messages, inputs: Sequence[Mapping[str, Any]]) -> Any:
    """The same as a message, with raw contents, for a model that is still to be named."""
    request = found.get("inference.ModelInferRequest")()
    for tensor in draw(right(inputs)):
        request.inputs.add(name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"])
        request.raw_input_contents.append(raw(tensor))
    for _ in range(draw(st.sampled_from((0, 0, 1, 1, 2)))):
        at = draw(st.integers(0, len(request.inputs) - 1))
        tensor = request.inputs[at]
        what = draw(st.sampled_from(("name", "datatype", "shape", "raw", "fewer", "twice", "contents")))
        if what == "name":
            tensor.name = draw(st.sampled_from(_WORDS))
        elif what == "datatype":
            tensor.datatype = draw(st.sampled_from((*DATATYPES, "FP8")))
        elif what == "shape":
            tensor.shape[:] = draw(st.lists(st.sampled_from(_SIZES), max_size=4))
        elif what == "raw" and at < len(request.raw_input_contents):
            request.raw_input_contents[at] = draw(st.binary(max_size=60))
        elif what == "fewer" and request.raw_input_contents:
            request.raw_input_contents.pop()
        elif what == "twice":
            request.inputs.add().CopyFrom(tensor)
        elif what == "contents":
            tensor.contents.CopyFrom(
                draw(messages_of(found, tensor.DESCRIPTOR.fields_by_name["contents"].message_type))
            )
    return request


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes of which some are others, missing or too many; or all of them as they were."""
    at = draw(st.integers(0, len(content)))
    how = draw(st.sampled_from(("not", "not", "other", "cut", "more", "less", "none")))
    other = draw(st.binary(min_size=1, max_size=4))
    return {
        "not": content,
        "other": content[:at] + other + content[at + len(other) :],
        "cut": content[:at],
        "more": content + other,
        "less": content[:at] + content[at + 1 :],
        "none": b"",
    }[how]


@st.composite
def squeezed(draw: st.DrawFn, content: bytes) -> tuple[str, bytes]:
    """What `content` is called compressed, and what it is: that as a rule, and damaged in a third of all cases."""
    encoding = draw(st.sampled_from(("gzip", "gzip", "deflate", "deflate", "identity", "snappy")))
    bits = draw(st.sampled_from(({"gzip": 31, "deflate": 15}.get(encoding, 31),) * 6 + (31, 15, -15)))
    machine = zlib.compressobj(draw(st.sampled_from((0, 1, 9))), wbits=bits)
    whole = machine.compress(content) + machine.flush()
    return encoding, whole if draw(st.booleans()) else draw(damaged(whole))


@st.composite
def chunked(draw: st.DrawFn, content: bytes) -> tuple[bytes, bool]:
    """`content` in chunks (RFC 9112, section 7.1), and whether it is that: of some a chunk's frame is damaged."""
    cuts = sorted(draw(st.lists(st.integers(0, len(content)), max_size=3)))
    parts = [content[at:to] for at, to in zip([0, *cuts], [*cuts, len(content)], strict=True) if to > at]
    forms = st.sampled_from((b"%x", b"%X", b"000%x", b'%x;a="b"', b"%x;a"))
    frames = [b"%b\r\n%b\r\n" % (draw(forms) % len(part), part) for part in parts]
    end = draw(st.sampled_from((b"0\r\n\r\n", b"0\r\nA: b\r\n\r\n", b"000;a\r\n\r\n")))
    if draw(st.booleans()):
        return b"".join([*frames, end]), True
    size = draw(st.sampled_from((b"-1", b"0x5", b"ffffffffffffffffff", b"", b" 5", b"5_0", b"%x" % (len(content) + 1))))
    wrong = draw(st.sampled_from((b"%b\r\n%b\r\n" % (size, content), b"%x\n%b\n" % (len(content), content), b"5\r\n")))
    at = draw(st.integers(0, len(frames)))
    return b"".join([*frames[:at], wrong, *frames[at:], draw(st.sampled_from((end, b"0\r\n", b"")))]), False
