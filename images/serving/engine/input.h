// The inputs of a model from the memory of Python objects.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/ivalue.h>
#include <pybind11/pybind11.h>

namespace torchyard {

// A row-major tensor over the bytes of `buffer`, without a copy: it stays alive as long as the tensor's storage does.
// Bytes that do not lie on the datatype's alignment are copied. Of BYTES, a list of copied strings (see strings.h).
// Call with the GIL held.
// Throws InputError: unknown datatype, a negative or impossible shape, or a buffer of another size.
c10::IValue value_over(const std::string& datatype, const std::vector<int64_t>& shape, pybind11::handle buffer);

}  // namespace torchyard
