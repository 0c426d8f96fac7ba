#include "batch.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <string>
#include <utility>

#include <c10/core/InferenceMode.h>

#include "errors.h"
#include "strings.h"

namespace torchyard {
namespace {

using Clock = std::chrono::steady_clock;

int64_t nanoseconds(Clock::duration duration) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(duration).count();
}

int64_t rows_of(const Request& request) {
  const auto rows = request.empty() || request.front().shape().empty() ? -1 : request.front().shape().front();
  const bool same = std::all_of(request.begin(), request.end(), [rows](const Input& input) {
    return !input.shape().empty() && input.shape().front() == rows;
  });
  if (rows < 0 || !same) {
    throw InputError("the inputs of a request do not have the same number of rows.");
  }
  return rows;
}

std::vector<c10::IValue> alone(const Request& request) {
  std::vector<c10::IValue> values;
  for (const auto& input : request) {
    values.push_back(input.value());
  }
  return values;
}

std::vector<c10::IValue> together(const std::vector<Request>& requests) {
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

// The bytes from one row of `output` on that hold as many rows as the part has.
at::Tensor part(const Output& output, int64_t row, int64_t rows, size_t& at) {
  if (output.datatype != "BYTES") {
    return output.content.narrow(0, row, rows);
  }
  const auto from = at;
  at += bytes_of_strings(output.content, at, rows);
  return output.content.narrow(0, static_cast<int64_t>(from), static_cast<int64_t>(at - from));
}

std::vector<std::vector<Output>> split(const std::vector<Output>& outputs, const std::vector<int64_t>& rows) {
  const c10::InferenceMode inference;
  int64_t all = 0;
  for (const auto each : rows) {
    all += each;
  }
  std::vector<std::vector<Output>> answers(rows.size());
  for (const auto& output : outputs) {
    if (output.shape.empty() || output.shape.front() != all) {
      throw ModelError(
          "an output of " + std::to_string(all) + " rows of input has " +
          (output.shape.empty() ? "none" : std::to_string(output.shape.front())) + "; it cannot be split.");
    }
    int64_t row = 0;
    size_t at = 0;
    for (size_t index = 0; index < rows.size(); ++index) {
      auto shape = output.shape;
      shape.front() = rows[index];
      answers[index].push_back({output.name, output.datatype, std::move(shape), part(output, row, rows[index], at)});
      row += rows[index];
    }
  }
  return answers;
}

}  // namespace

Answered answer_together(const Model& model, const std::vector<Request>& requests) {
  const auto started = Clock::now();
  std::vector<int64_t> rows;
  if (requests.size() > 1) {
    for (const auto& request : requests) {
      rows.push_back(rows_of(request));
    }
  }
  const auto values = requests.size() == 1 ? alone(requests.front()) : together(requests);
  const auto ready = Clock::now();
  auto outputs = model.forward(values);
  const auto ran = Clock::now();
  Answered answered;
  if (requests.size() == 1) {
    answered.answers.push_back(std::move(outputs));
  } else {
    answered.answers = split(outputs, rows);
  }
  answered.input_ns = nanoseconds(ready - started);
  answered.infer_ns = nanoseconds(ran - ready);
  answered.output_ns = nanoseconds(Clock::now() - ran);
  return answered;
}

}  // namespace torchyard
