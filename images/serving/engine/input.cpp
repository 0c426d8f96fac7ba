#include "input.h"

#include <algorithm>
#include <cstring>
#include <sstream>
#include <utility>

#include <ATen/Functions.h>
#include <c10/core/InferenceMode.h>

#include "datatypes.h"
#include "errors.h"
#include "strings.h"

namespace py = pybind11;

namespace torchyard {

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

namespace {

constexpr const char* kStrings = "BYTES";

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

int64_t element_of(const std::string& datatype) {
  const auto type = scalar_type_of(datatype);
  if (!type) {
    throw InputError(datatype + ": torch has no such datatype.");
  }
  return static_cast<int64_t>(c10::elementSize(*type));
}

// Whether inputs differ in their rows only.
bool fit_together(const Input& one, const Input& other) {
  const auto& a = one.shape();
  const auto& b = other.shape();
  return one.datatype() == other.datatype() && !a.empty() && a.size() == b.size() &&
         std::equal(a.begin() + 1, a.end(), b.begin() + 1);
}

}  // namespace

Input::Input(std::string datatype, std::vector<int64_t> shape, py::handle buffer)
    : datatype_(std::move(datatype)), shape_(std::move(shape)) {
  if (datatype_ == kStrings) {
    if (shape_.size() != 1 || shape_[0] < 0) {
      throw InputError(
          described(datatype_, shape_) + ": strings are a list, with one dimension that is not negative.");
    }
    held_ = std::make_shared<HeldBuffer>(buffer);
    return;
  }
  const auto expected = bytes_of(datatype_, shape_, element_of(datatype_));
  held_ = std::make_shared<HeldBuffer>(buffer);
  if (held_->size() != expected) {
    throw InputError(
        described(datatype_, shape_) + " takes " + std::to_string(expected) + " bytes, and " +
        std::to_string(held_->size()) + " came.");
  }
}

std::string_view Input::bytes() const {
  return {static_cast<const char*>(held_->data()), static_cast<size_t>(held_->size())};
}

c10::IValue Input::value() const {
  if (datatype_ == kStrings) {
    return strings_of(bytes(), shape_[0]);
  }
  const c10::InferenceMode inference;
  const auto options = at::TensorOptions().dtype(*scalar_type_of(datatype_));
  if (held_->size() == 0) {
    return at::empty(shape_, options);
  }
  const bool aligned = reinterpret_cast<uintptr_t>(held_->data()) % element_of(datatype_) == 0;
  auto tensor = at::from_blob(held_->data(), shape_, [held = held_](void*) {}, options);
  return aligned ? tensor : tensor.clone();
}

c10::IValue stacked(const std::vector<const Input*>& inputs) {
  const auto& first = *inputs.front();
  auto shape = first.shape();
  for (const auto* each : inputs) {
    if (!fit_together(first, *each)) {
      throw InputError(
          described(each->datatype(), each->shape()) + " and " + described(first.datatype(), first.shape()) +
          " differ in more than their rows.");
    }
    shape[0] += each == &first ? 0 : each->shape()[0];
  }
  if (first.datatype() == kStrings) {
    c10::List<std::string> strings;
    for (const auto* each : inputs) {
      strings.append(strings_of(each->bytes(), each->shape()[0]));
    }
    return strings;
  }
  const c10::InferenceMode inference;
  auto tensor = at::empty(shape, at::TensorOptions().dtype(*scalar_type_of(first.datatype())));
  auto* at = static_cast<char*>(tensor.mutable_data_ptr());
  for (const auto* each : inputs) {
    const auto bytes = each->bytes();
    if (!bytes.empty()) {
      std::memcpy(at, bytes.data(), bytes.size());
      at += bytes.size();
    }
  }
  return tensor;
}

}  // namespace torchyard
