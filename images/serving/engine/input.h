// Tensors over the memory of Python objects, without a copy.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <pybind11/pybind11.h>

namespace torchyard {

// A row-major tensor over the bytes of `buffer`, which stays alive as long as the tensor's storage does.
// Bytes that do not lie on the datatype's alignment are copied. Call with the GIL held.
// Throws InputError: unknown datatype, a negative or impossible shape, or a buffer of another size.
at::Tensor tensor_over(const std::string& datatype, const std::vector<int64_t>& shape, pybind11::handle buffer);

}  // namespace torchyard
