// The inputs of a model from the memory of Python objects.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/ivalue.h>
#include <pybind11/pybind11.h>

namespace torchyard {

class HeldBuffer;

// One input of a request: datatype, shape, and the row-major bytes of a Python object, which stays alive with it.
class Input {
 public:
  // Call with the GIL held.
  // Throws InputError: unknown datatype, a negative or impossible shape, or a buffer of another size.
  Input(std::string datatype, std::vector<int64_t> shape, pybind11::handle buffer);

  const std::string& datatype() const { return datatype_; }
  const std::vector<int64_t>& shape() const { return shape_; }
  std::string_view bytes() const;

  // A tensor over the bytes, without a copy; it keeps them alive. Bytes that do not lie on the datatype's alignment
  // are copied. Of BYTES, a list of copied strings (see strings.h). Throws InputError: strings that end wrongly.
  c10::IValue value() const;

 private:
  std::string datatype_;
  std::vector<int64_t> shape_;
  std::shared_ptr<HeldBuffer> held_;
};

// The same input of several requests, of which only the first dimension may differ, as one value with the rows of all:
// each is copied once. Throws InputError: they do not fit together.
c10::IValue stacked(const std::vector<const Input*>& inputs);

}  // namespace torchyard
