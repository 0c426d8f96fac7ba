#include "fused.h"

#include <algorithm>

#include <ATen/Parallel.h>
#include <torch/csrc/jit/codegen/onednn/interface.h>
#include <torch/csrc/jit/passes/pass_manager.h>
#include <torch/csrc/jit/serialization/import.h>

#include "aside.h"
#include "errors.h"
#include "mapped.h"

namespace torchyard {
namespace {

// The executor profiles the first run of a shape, and its second run is by what it made of that.
constexpr int kRuns = 2;

// Fuses whatever the executor specialises while this lives. torch's own switch cannot be switched on again.
class Fusing {
 public:
  Fusing() : pass_(torch::jit::registerPrePass(torch::jit::fuser::onednn::fuseGraph)) {}
  ~Fusing() { torch::jit::clearPrePass(pass_); }
  Fusing(const Fusing&) = delete;
  Fusing& operator=(const Fusing&) = delete;

 private:
  torch::jit::GraphPassNameType pass_;
};

torch::jit::Module frozen(const std::string& path) {
  auto module = torch::jit::load(path, c10::kCPU);
  if (!module.hasattr("training")) {
    return module;
  }
  module.eval();
  return torch::jit::freeze(module);
}

std::vector<at::DimVector> shapes_of(const std::vector<c10::IValue>& inputs) {
  std::vector<at::DimVector> shapes;
  for (const auto& input : inputs) {
    if (!input.isTensor()) {
      throw InputError("only a program of tensors can be fused.");
    }
    shapes.emplace_back(input.toTensor().sizes());
  }
  return shapes;
}

}  // namespace

Fused::Fused(const std::string& path, const std::vector<c10::IValue>& inputs)
    : shapes_(shapes_of(inputs)), threads_(at::get_num_threads()), module_(frozen(path)) {
  const Fusing fusing;
  const Mapped weights(module_, path);
  for (int run = 0; run < kRuns; ++run) {
    forward(inputs);
  }
  // What is fused has them in another order now.
  weights.forget();
}

bool Fused::takes(const std::vector<c10::IValue>& inputs) const {
  const int threads = at::get_num_threads();
  return (threads == threads_ || threads == 1) &&
      std::equal(inputs.begin(), inputs.end(), shapes_.begin(), shapes_.end(), [](const auto& input, const auto& shape) {
           return input.isTensor() && input.toTensor().sizes() == at::IntArrayRef(shape);
         });
}

c10::IValue Fused::forward(const std::vector<c10::IValue>& inputs) const {
  const auto run = [this, &inputs] { return module_.get_method("forward")(inputs); };
  return at::get_num_threads() == threads_ ? run() : aside(run);
}

}  // namespace torchyard
