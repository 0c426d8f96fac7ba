// Requests that one run of the model answers together.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/ivalue.h>

#include "input.h"
#include "model.h"

namespace torchyard {

// The inputs of one request, in the order of forward()'s arguments.
using Request = std::vector<Input>;

// The outputs for all requests, and the nanoseconds that it took to put their inputs together and to run.
struct Answered {
  std::vector<Output> outputs;
  int64_t input_ns, infer_ns;
};

// Answers all requests in one run, safe to call without the GIL. A request that is alone is not copied. Of several,
// each input is copied once, below that of the request before.
// Throws InputError: they do not fit together; ModelError: the model raised.
Answered answer_together(const Model& model, const std::vector<Request>& requests);

}  // namespace torchyard
