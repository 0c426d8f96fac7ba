#include "batch.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "errors.h"

namespace torchyard {
namespace {

using Clock = std::chrono::steady_clock;

int64_t nanoseconds(Clock::duration duration) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(duration).count();
}

void refuse_ragged(const Request& request) {
  const bool has_rows = !request.empty() && !request.front().shape().empty();
  const bool same = has_rows && std::all_of(request.begin(), request.end(), [&request](const Input& input) {
    return !input.shape().empty() && input.shape().front() == request.front().shape().front();
  });
  if (!same) {
    throw InputError("the inputs of a request do not have the same number of rows.");
  }
}

std::vector<c10::IValue> alone(const Request& request) {
  std::vector<c10::IValue> values;
  for (const auto& input : request) {
    values.push_back(input.value());
  }
  return values;
}

std::vector<c10::IValue> together(const std::vector<Request>& requests) {
  for (const auto& request : requests) {
    refuse_ragged(request);
  }
  std::vector<c10::IValue> values;
  for (size_t index = 0; index < requests.front().size(); ++index) {
    std::vector<const Input*> inputs;
    for (const auto& request : requests) {
      if (request.size() != requests.front().size()) {
        throw InputError("the requests do not have the same number of inputs.");
      }
      inputs.push_back(&request[index]);
    }
    values.push_back(stacked(inputs));
  }
  return values;
}

}  // namespace

Answered answer_together(const Model& model, const std::vector<Request>& requests) {
  const auto started = Clock::now();
  const auto values = requests.size() == 1 ? alone(requests.front()) : together(requests);
  const auto ready = Clock::now();
  auto outputs = model.forward(values);
  return {std::move(outputs), nanoseconds(ready - started), nanoseconds(Clock::now() - ready)};
}

}  // namespace torchyard
