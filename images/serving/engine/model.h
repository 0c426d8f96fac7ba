// A TorchScript archive that is loaded and ready to compute.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/csrc/jit/api/module.h>

namespace torchyard {

// One tensor of an answer, contiguous and owned by nobody else; `name` where the model returned a dict.
struct Output {
  std::optional<std::string> name;
  std::string datatype;
  at::Tensor tensor;
};

class Model {
 public:
  // Loads the archive at `path` onto the CPU. With `optimize` its graph is rewritten for inference: after loading,
  // because an archive saved after that rewriting cannot be loaded again. Throws LoadError.
  Model(const std::string& path, bool optimize);

  // The names of the archive's methods.
  std::vector<std::string> methods() const;

  // Runs forward() on inputs in its own order. It may return a tensor, a tuple or list of tensors, or a dict of
  // tensors by name. Safe to call without the GIL. Throws ModelError.
  std::vector<Output> forward(const std::vector<at::Tensor>& inputs) const;

 private:
  torch::jit::Module module_;
};

}  // namespace torchyard
