// What can go wrong in the engine; each becomes a Python exception of the same name.
#pragma once

#include <stdexcept>

namespace torchyard {

// The archive cannot be loaded or prepared by this runtime.
struct LoadError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// An input is not what its datatype and shape say: the caller's mistake.
struct InputError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The model raised, or returned something that is not tensors: the model's mistake.
struct ModelError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace torchyard
