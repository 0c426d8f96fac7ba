// A second copy of a model's program for inputs of one shape, whose operators oneDNN Graph has fused.
#pragma once

#include <string>
#include <vector>

#include <ATen/core/ivalue.h>
#include <torch/csrc/jit/api/module.h>

namespace torchyard {

class Fused {
 public:
  // Loads the archive at `path` once more, and specialises it for the shapes of `inputs` and the calling thread's
  // number of threads for one operator; others may run it afterwards, with as many or with one. No other thread may run
  // a model meanwhile: what torch fuses by is set for the whole process.
  // Throws what torch does; InputError where an input is not a tensor.
  Fused(const std::string& path, const std::vector<c10::IValue>& inputs);

  // Whether inputs have the shapes that it is for, and the calling thread as many threads for one operator, or one.
  bool takes(const std::vector<c10::IValue>& inputs) const;

  // Runs forward() on inputs that it takes.
  c10::IValue forward(const std::vector<c10::IValue>& inputs) const;

 private:
  std::vector<at::DimVector> shapes_;
  int threads_;
  torch::jit::Module module_;
};

}  // namespace torchyard
