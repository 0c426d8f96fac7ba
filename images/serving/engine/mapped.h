// Weights that lie in a file instead of in memory of their own.
#pragma once

#include <memory>
#include <string>

#include <torch/csrc/jit/api/module.h>

namespace torchyard {

// An archive that is mapped into memory, for as long as a tensor or anybody else needs it.
class Mapped {
 public:
  // Has the large constants of a program, as `frozen` makes them, lie in the archive that they were read from. The
  // kernel reads them when they are needed, and shares them with whoever has mapped the same file.
  // Throws std::system_error.
  Mapped(const torch::jit::Module& module, const std::string& path);

  // Lets go of what was read of them so far; if one was written to, it is as in the archive again.
  void forget() const;

 private:
  struct File;
  std::shared_ptr<File> file_;
};

}  // namespace torchyard
