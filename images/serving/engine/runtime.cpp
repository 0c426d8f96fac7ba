#include "runtime.h"

#include <algorithm>
#include <set>
#include <sstream>

#include <malloc.h>

#include <ATen/Parallel.h>
#include <caffe2/serialize/versions.h>
#include <torch/csrc/jit/mobile/compatibility/runtime_compatibility.h>
#include <torch/csrc/jit/operator_upgraders/version_map.h>
#include <torch/csrc/jit/runtime/operator.h>
#include <torch/version.h>

namespace torchyard {

std::string torch_version() {
  return TORCH_VERSION;
}

std::vector<std::string> operators() {
  std::set<std::string> schemas;
  for (const auto& op : torch::jit::getAllOperators()) {
    std::ostringstream text;
    text << op->schema();
    schemas.insert(text.str());
  }
  return {schemas.begin(), schemas.end()};
}

std::vector<std::pair<uint64_t, std::string>> upgraders() {
  std::vector<std::pair<uint64_t, std::string>> upgraders;
  for (const auto& [name, entries] : torch::jit::get_operator_version_map()) {
    for (const auto& entry : entries) {
      upgraders.emplace_back(entry.bumped_at_version, entry.old_schema);
    }
  }
  std::sort(upgraders.begin(), upgraders.end());
  return upgraders;
}

std::vector<std::string> classes() {
  const auto names = torch::jit::_get_loaded_custom_classes();
  const std::set<std::string> sorted(names.begin(), names.end());
  return {sorted.begin(), sorted.end()};
}

std::pair<uint64_t, uint64_t> archive_versions() {
  return {caffe2::serialize::kMinSupportedFileFormatVersion, caffe2::serialize::kMaxSupportedFileFormatVersion};
}

void set_threads(int count) {
  at::set_num_threads(count);
}

int threads() {
  return at::get_num_threads();
}

void trim() {
  malloc_trim(0);
}

}  // namespace torchyard
