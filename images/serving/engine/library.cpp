#include "library.h"

#include <algorithm>
#include <iterator>

#include <dlfcn.h>

#include "errors.h"
#include "runtime.h"

namespace torchyard {

std::vector<std::string> load_library(const std::string& path) {
  const auto before = operators();
  // NOW: a symbol that is missing is told here and not by a crash in a request. LOCAL: torch finds the operators by
  // their registration, so that nobody has to find them by symbol, and none of theirs can take the place of torch's.
  if (dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL) == nullptr) {
    const auto* reason = dlerror();
    throw LoadError(reason ? reason : path + ": the loader gives no reason.");
  }
  const auto after = operators();
  std::vector<std::string> registered;
  std::set_difference(after.begin(), after.end(), before.begin(), before.end(), std::back_inserter(registered));
  return registered;
}

}  // namespace torchyard
