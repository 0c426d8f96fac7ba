#include "mapped.h"

#include <cerrno>
#include <cstring>
#include <map>
#include <system_error>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <caffe2/serialize/inline_container.h>
#include <torch/csrc/jit/ir/ir.h>

namespace torchyard {
namespace {

// What is smaller takes little, and most of it is biases.
constexpr size_t kLeast = 1 << 16;

void check(bool good, const std::string& path) {
  if (!good) {
    throw std::system_error(errno, std::generic_category(), path);
  }
}

void collect(torch::jit::Block* block, std::vector<at::Tensor>& constants) {
  for (auto* node : block->nodes()) {
    if (node->kind() == c10::prim::Constant && node->hasAttribute(c10::attr::value) &&
        node->kindOf(c10::attr::value) == torch::jit::AttributeKind::t) {
      constants.push_back(node->t(c10::attr::value));
    }
    for (auto* inner : node->blocks()) {
      collect(inner, constants);
    }
  }
}

}  // namespace

struct Mapped::File {
  explicit File(const std::string& path) {
    const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    check(descriptor >= 0, path);
    struct stat found {};
    const bool told = fstat(descriptor, &found) == 0;
    size = static_cast<size_t>(found.st_size);
    // Who writes to a constant gets a page of his own.
    if (told) {
      address = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, descriptor, 0);
    }
    close(descriptor);
    check(told && address != MAP_FAILED, path);
  }
  ~File() { munmap(address, size); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  void* address = MAP_FAILED;
  size_t size = 0;
};

Mapped::Mapped(const torch::jit::Module& module, const std::string& path) : file_(std::make_shared<File>(path)) {
  caffe2::serialize::PyTorchStreamReader reader(path);
  std::multimap<size_t, char*> places;
  for (const auto& name : reader.getAllRecords()) {
    if (name.rfind("constants/", 0) == 0) {
      places.emplace(reader.getRecordSize(name), static_cast<char*>(file_->address) + reader.getRecordOffset(name));
    }
  }
  std::vector<at::Tensor> constants;
  for (const auto& method : module.get_methods()) {
    collect(method.graph()->block(), constants);
  }
  for (const auto& constant : constants) {
    auto* storage = constant.has_storage() ? constant.storage().unsafeGetStorageImpl() : nullptr;
    if (storage == nullptr || storage->nbytes() < kLeast) {
      continue;
    }
    const auto [first, last] = places.equal_range(storage->nbytes());
    for (auto place = first; place != last; ++place) {
      if (std::memcmp(place->second, storage->data(), storage->nbytes()) == 0) {
        storage->set_data_ptr_noswap(
            {place->second, new std::shared_ptr<File>(file_),
             [](void* kept) { delete static_cast<std::shared_ptr<File>*>(kept); }, c10::kCPU});
        break;
      }
    }
  }
}

void Mapped::forget() const {
  madvise(file_->address, file_->size, MADV_DONTNEED);
}

}  // namespace torchyard
