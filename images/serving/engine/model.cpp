#include "model.h"

#include <utility>

#include <c10/core/InferenceMode.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/serialization/import.h>

#include "datatypes.h"
#include "errors.h"
#include "strings.h"

namespace torchyard {
namespace {

using c10::IValue;

// torch's message without the C++ stack, which says nothing about the model.
std::string message_of(const std::exception& error) {
  const auto* torch_error = dynamic_cast<const c10::Error*>(&error);
  return torch_error ? torch_error->what_without_backtrace() : error.what();
}

torch::jit::Module load(const std::string& path, bool optimize) {
  try {
    auto module = torch::jit::load(path, c10::kCPU);
    if (!optimize) {
      return module;
    }
    module.eval();
    return torch::jit::optimize_for_inference(module);
  } catch (const std::exception& error) {
    throw LoadError(message_of(error));
  }
}

using Named = std::pair<std::optional<std::string>, IValue>;

// The outputs in what forward() returned, which is let go, so that each is held by its real owners only.
std::vector<Named> values_of(IValue result) {
  std::vector<Named> values;
  if (result.isTensor() || result.isString() || are_strings(result)) {
    values.emplace_back(std::nullopt, std::move(result));
  } else if (result.isTuple()) {
    for (const auto& element : result.toTupleRef().elements()) {
      values.emplace_back(std::nullopt, element);
    }
  } else if (result.isList()) {
    for (const auto& element : result.toListRef()) {
      values.emplace_back(std::nullopt, element);
    }
  } else if (result.isGenericDict()) {
    for (const auto& entry : result.toGenericDict()) {
      if (!entry.key().isString()) {
        throw ModelError("forward() returned a dict whose keys are not strings.");
      }
      values.emplace_back(entry.key().toStringRef(), entry.value());
    }
  } else {
    throw ModelError(
        "forward() returned a " + result.type()->str() +
        "; it must be a tensor or a list of strings, or a tuple, list or dict of these.");
  }
  return values;
}

// The tensor in row-major order. Memory that somebody else holds too (an input, a weight, another output) is copied:
// it may change under whoever reads the answer.
at::Tensor owned(const at::Tensor& tensor) {
  if (tensor.layout() != c10::kStrided || !tensor.device().is_cpu()) {
    throw ModelError("forward() returned a tensor that is not a dense one on the CPU.");
  }
  const bool shared = tensor.use_count() > 1 || tensor.storage().use_count() > 1;
  return shared && tensor.is_contiguous() ? tensor.clone() : tensor.contiguous();
}

Output output_of(Named named) {
  auto& [name, value] = named;
  if (value.isString()) {
    return {name, "BYTES", {1}, serialized(value)};
  }
  if (are_strings(value)) {
    const auto strings = value.toListRef();
    return {name, "BYTES", {static_cast<int64_t>(strings.size())}, serialized(strings)};
  }
  if (!value.isTensor()) {
    throw ModelError(
        "forward() returned a " + value.type()->str() + " among its outputs; each must be a tensor or a list of strings.");
  }
  const auto tensor = std::move(value).toTensor();
  const auto datatype = datatype_of(tensor.scalar_type());
  if (!datatype) {
    throw ModelError(
        std::string("forward() returned a tensor of ") + c10::toString(tensor.scalar_type()) +
        ", which the protocol cannot carry.");
  }
  return {name, *datatype, tensor.sizes().vec(), owned(tensor)};
}

}  // namespace

Model::Model(const std::string& path, bool optimize) : path_(path), module_(load(path, optimize)) {}

std::vector<std::string> Model::methods() const {
  std::vector<std::string> names;
  for (const auto& method : module_.get_methods()) {
    names.push_back(method.name());
  }
  return names;
}

void Model::fuse(const std::vector<IValue>& inputs) {
  const c10::InferenceMode inference;
  try {
    fused_.emplace(path_, inputs);
  } catch (const InputError&) {
    throw;
  } catch (const std::exception& error) {
    throw ModelError(message_of(error));
  }
}

void Model::unfuse() {
  fused_.reset();
}

std::vector<Output> Model::forward(const std::vector<IValue>& inputs) const {
  const c10::InferenceMode inference;
  try {
    // `inputs` stay with the caller, so that an answer that is one of them, or a view of one, is seen to be shared.
    std::vector<Output> outputs;
    auto result = fused_ && fused_->takes(inputs) ? fused_->forward(inputs) : module_.get_method("forward")(inputs);
    for (auto& named : values_of(std::move(result))) {
      outputs.push_back(output_of(std::move(named)));
    }
    return outputs;
  } catch (const ModelError&) {
    throw;
  } catch (const std::exception& error) {
    throw ModelError(message_of(error));
  }
}

}  // namespace torchyard
