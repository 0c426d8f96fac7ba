#include "input.h"

#include <memory>
#include <sstream>

#include <ATen/Functions.h>
#include <c10/core/InferenceMode.h>

#include "datatypes.h"
#include "errors.h"
#include "strings.h"

namespace py = pybind11;

namespace torchyard {
namespace {

// A Python object's contiguous bytes. The last owner may be a tensor that dies without the GIL.
class HeldBuffer {
 public:
  explicit HeldBuffer(py::handle object) {
    if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_SIMPLE) != 0) {
      throw py::error_already_set();
    }
  }
  ~HeldBuffer() {
    py::gil_scoped_acquire gil;
    PyBuffer_Release(&view_);
  }
  HeldBuffer(const HeldBuffer&) = delete;
  HeldBuffer& operator=(const HeldBuffer&) = delete;

  void* data() const { return view_.buf; }
  int64_t size() const { return view_.len; }

 private:
  Py_buffer view_{};
};

std::string described(const std::string& datatype, const std::vector<int64_t>& shape) {
  std::ostringstream text;
  text << datatype << " [";
  for (size_t i = 0; i < shape.size(); ++i) {
    text << (i ? ", " : "") << shape[i];
  }
  text << "]";
  return text.str();
}

// The bytes that a shape asks for. Dimensions of 0 count as 1 in the overflow test, since strides ignore them too.
int64_t bytes_of(const std::string& datatype, const std::vector<int64_t>& shape, int64_t element) {
  int64_t bytes = element;
  bool empty = false;
  for (const auto dimension : shape) {
    if (dimension < 0) {
      throw InputError(described(datatype, shape) + ": a dimension is negative.");
    }
    empty = empty || dimension == 0;
    if (__builtin_mul_overflow(bytes, dimension ? dimension : 1, &bytes)) {
      throw InputError(described(datatype, shape) + ": no memory holds so many elements.");
    }
  }
  return empty ? 0 : bytes;
}

c10::List<std::string> strings_over(const std::vector<int64_t>& shape, py::handle buffer) {
  if (shape.size() != 1 || shape[0] < 0) {
    throw InputError(described("BYTES", shape) + ": strings are a list, with one dimension that is not negative.");
  }
  const HeldBuffer held(buffer);
  return strings_of({static_cast<const char*>(held.data()), static_cast<size_t>(held.size())}, shape[0]);
}

at::Tensor tensor_over(const std::string& datatype, const std::vector<int64_t>& shape, py::handle buffer) {
  const auto type = scalar_type_of(datatype);
  if (!type) {
    throw InputError(datatype + ": torch has no such datatype.");
  }
  const auto element = static_cast<int64_t>(c10::elementSize(*type));
  const auto expected = bytes_of(datatype, shape, element);
  auto held = std::make_shared<HeldBuffer>(buffer);
  if (held->size() != expected) {
    throw InputError(
        described(datatype, shape) + " takes " + std::to_string(expected) + " bytes, and " +
        std::to_string(held->size()) + " came.");
  }
  const c10::InferenceMode inference;
  const auto options = at::TensorOptions().dtype(*type);
  if (expected == 0) {
    return at::empty(shape, options);
  }
  auto* data = held->data();
  const bool aligned = reinterpret_cast<uintptr_t>(data) % element == 0;
  auto tensor = at::from_blob(data, shape, [held = std::move(held)](void*) {}, options);
  return aligned ? tensor : tensor.clone();
}

}  // namespace

c10::IValue value_over(const std::string& datatype, const std::vector<int64_t>& shape, py::handle buffer) {
  if (datatype == "BYTES") {
    return strings_over(shape, buffer);
  }
  return tensor_over(datatype, shape, buffer);
}

}  // namespace torchyard
