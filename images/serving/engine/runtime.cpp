#include "runtime.h"

#include <algorithm>
#include <cstdlib>
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
namespace {

// What is freed is joined with its neighbours from 64 KiB on, and less than 128 KiB is never mapped.
constexpr size_t kBeside = 3 << 15;
// glibc's DEFAULT_MMAP_THRESHOLD_MAX.
constexpr int kLargestThreshold = 1 << 25;

}  // namespace

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
  // The end of a thread's arena is trimmed only by freeing something beside it, and only beyond a threshold that has
  // grown with what was freed before: https://sourceware.org/glibc/manual/latest/html_node/Malloc-Tunable-Parameters.html
  mallopt(M_TRIM_THRESHOLD, 1);
  void* volatile last = std::malloc(kBeside);
  std::free(last);
  malloc_trim(0);
  // What it grows to once something large was freed; it does not grow by itself any more.
  mallopt(M_MMAP_THRESHOLD, kLargestThreshold);
  mallopt(M_TRIM_THRESHOLD, 2 * kLargestThreshold);
}

}  // namespace torchyard
