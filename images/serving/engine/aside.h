// One thread runs what was made for several.
#pragma once

#include <exception>
#include <optional>
#include <type_traits>
#include <utility>

#include <omp.h>

namespace torchyard {

// Calls `work` in the calling thread, and its operators use no other one, however many they were made for: inside a
// parallel region of OpenMP none begins another. The second thread, without which it would be none, sleeps meanwhile.
template <typename Work>
std::invoke_result_t<Work> aside(const Work& work) {
  std::optional<std::invoke_result_t<Work>> result;
  std::exception_ptr error;
#pragma omp parallel num_threads(2)
  if (omp_get_thread_num() == 0) {
    try {
      result = work();
    } catch (...) {
      error = std::current_exception();
    }
  }
  if (error) {
    std::rethrow_exception(error);
  }
  return std::move(*result);
}

}  // namespace torchyard
