#include "fused.h"

#include <algorithm>

#include <torch/csrc/jit/codegen/onednn/interface.h>
#include <torch/csrc/jit/passes/pass_manager.h>
#include <torch/csrc/jit/serialization/import.h>

#include "errors.h"

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
    : shapes_(shapes_of(inputs)), module_(frozen(path)) {
  const Fusing fusing;
  for (int run = 0; run < kRuns; ++run) {
    forward(inputs);
  }
}

bool Fused::takes(const std::vector<c10::IValue>& inputs) const {
  return std::equal(
      inputs.begin(), inputs.end(), shapes_.begin(), shapes_.end(), [](const c10::IValue& input, const auto& shape) {
        return input.isTensor() && input.toTensor().sizes() == at::IntArrayRef(shape);
      });
}

c10::IValue Fused::forward(const std::vector<c10::IValue>& inputs) const {
  return module_.get_method("forward")(inputs);
}

}  // namespace torchyard
