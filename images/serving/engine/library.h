// A model's own operators, in a shared library that registers them with torch when it is loaded.
#pragma once

#include <string>
#include <vector>

namespace torchyard {

// Loads the library at `path` for the life of the process. Returns the schemas of the operators that it registered,
// sorted: none when it was loaded before. Throws LoadError. A registration that torch refuses ends the process with
// torch's words: the library's initialisers throw where nothing can catch.
std::vector<std::string> load_library(const std::string& path);

}  // namespace torchyard
