// A TorchScript archive that is loaded and ready to compute.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>
#include <torch/csrc/jit/api/module.h>

#include "fused.h"

namespace torchyard {

// One tensor of an answer; `name` where the model returned a dict. `content` is contiguous and owned by nobody else:
// the tensor, or of BYTES the bytes of the strings (see strings.h).
struct Output {
  std::optional<std::string> name;
  std::string datatype;
  std::vector<int64_t> shape;
  at::Tensor content;
};

class Model {
 public:
  // Loads the archive at `path` onto the CPU. With `optimize` its graph is rewritten for inference: after loading,
  // because an archive saved after that rewriting cannot be loaded again. Throws LoadError.
  Model(const std::string& path, bool optimize);

  // The names of the archive's methods.
  std::vector<std::string> methods() const;

  // From now on, inputs of the shapes of these are run by a second copy of the program, which oneDNN Graph has fused for
  // them and the calling thread's number of threads for one operator, wherever a thread has as many, or one. No other
  // thread may run a model meanwhile.
  // Throws InputError, ModelError.
  void fuse(const std::vector<c10::IValue>& inputs);

  // Lets the second copy go, if there is one.
  void unfuse();

  // Runs forward() on inputs in its own order. It may return a tensor or a list of strings, a tuple or list of these,
  // or a dict of them by name; a string counts as a list of one. Safe to call without the GIL. Throws ModelError.
  std::vector<Output> forward(const std::vector<c10::IValue>& inputs) const;

 private:
  std::string path_;
  torch::jit::Module module_;
  std::optional<Fused> fused_;
};

}  // namespace torchyard
