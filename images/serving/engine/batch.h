// Requests that one run of the model answers together, and which rows of its outputs are whose.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/ivalue.h>

#include "input.h"
#include "model.h"

namespace torchyard {

// The inputs of one request, in the order of forward()'s arguments.
using Request = std::vector<Input>;

// The answers of each request, and the nanoseconds that it took to put the inputs together, to run and to split.
struct Answered {
  std::vector<std::vector<Output>> answers;
  int64_t input_ns, infer_ns, output_ns;
};

// Answers all requests in one run, safe to call without the GIL. A request that is alone is neither copied nor split.
// Of several, each input is copied once, and each answer is a view of its rows.
// Throws InputError: they do not fit together; ModelError: the model raised, or an output has not a row for each row.
Answered answer_together(const Model& model, const std::vector<Request>& requests);

}  // namespace torchyard
