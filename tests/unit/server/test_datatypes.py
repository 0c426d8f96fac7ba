"""Values to bytes and back, against numpy."""

import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.model.datatypes import DATATYPES, decode, encode
from tests.unit.server.wire import NUMPY

_INTEGERS = [name for name, datatype in DATATYPES.items() if datatype.kind == "integer"]
_FLOATS = [name for name, datatype in DATATYPES.items() if datatype.kind == "number"]


def test_every_datatype_is_as_wide_as_numpys() -> None:
    assert {name: datatype.size for name, datatype in DATATYPES.items() if datatype.kind != "string"} == {
        name: np.dtype(kind).itemsize for name, kind in NUMPY.items()
    }


@pytest.mark.parametrize("name", _INTEGERS)
@given(data=st.data())
def test_integers_round_trip(name: str, data: st.DataObject) -> None:
    datatype = DATATYPES[name]
    values = data.draw(st.lists(st.integers(int(datatype.least), int(datatype.most))))
    content = encode(datatype, values)
    assert bytes(content) == np.array(values, NUMPY[name]).tobytes()
    assert decode(datatype, content) == values


@pytest.mark.parametrize("name", _FLOATS)
@given(data=st.data())
def test_numbers_are_rounded_as_numpy_does(name: str, data: st.DataObject) -> None:
    datatype = DATATYPES[name]
    nearly = sys.float_info.max if name == "FP64" else math.nextafter(datatype.beyond, 0)
    values = data.draw(st.lists(st.floats(-nearly, nearly)))
    content = encode(datatype, values)
    with np.errstate(under="ignore"):
        # BF16 from FP32, which is what JSON's numbers are rounded to first.
        through = np.array(values, np.float32 if name == "BF16" else NUMPY[name])
        assert bytes(content) == through.astype(NUMPY[name]).tobytes()
    assert decode(datatype, content) == through.astype(NUMPY[name]).astype(np.float64).tolist()


@pytest.mark.parametrize("name", _FLOATS)
def test_numbers_are_taken_up_to_where_they_would_be_rounded_to_infinity(name: str) -> None:
    datatype = DATATYPES[name]
    beyond = datatype.beyond
    nearly = beyond - 1 if name == "FP64" else math.nextafter(beyond, 0)
    assert datatype.takes(nearly)
    assert datatype.takes(-nearly)
    assert not datatype.takes(beyond)
    assert not datatype.takes(-beyond)
    assert not datatype.takes(math.inf)
    assert decode(datatype, encode(datatype, [nearly, -nearly])) == [datatype.most, datatype.least]
    with np.errstate(over="ignore"):
        through = np.array([beyond] if name != "FP64" else [math.inf], np.float32 if name == "BF16" else NUMPY[name])
        assert np.isinf(through.astype(NUMPY[name])[0])


def test_the_largest_single_is_taken_as_it_is_commonly_written() -> None:
    assert DATATYPES["FP32"].takes(3.4028235e38)
    assert DATATYPES["FP32"].takes(-3.4028235e38)
    assert not DATATYPES["FP32"].takes(3.4028236e38)


@given(st.lists(st.booleans()))
def test_booleans_round_trip(values: list[bool]) -> None:
    assert bytes(encode(DATATYPES["BOOL"], values)) == bytes(values)
    assert decode(DATATYPES["BOOL"], bytes(values)) == values


@pytest.mark.parametrize("name", _FLOATS)
def test_what_is_not_finite_is_decoded(name: str) -> None:
    content = np.array([math.inf, -math.inf, math.nan], NUMPY[name]).tobytes()
    infinite, minus, nan = decode(DATATYPES[name], content)
    assert (infinite, minus) == (math.inf, -math.inf)
    assert math.isnan(nan)


def test_encoded_bytes_are_nobody_elses() -> None:
    """A model may write to its input, and Python shares short bytes objects."""
    for name in NUMPY:
        datatype = DATATYPES[name]
        assert not memoryview(encode(datatype, [1])).readonly
