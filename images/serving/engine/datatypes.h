// The Open Inference Protocol's datatypes and torch's scalar types.
#pragma once

#include <optional>
#include <string>

#include <c10/core/ScalarType.h>

namespace torchyard {

// The scalar type of a datatype such as "FP32", or nothing where torch has none.
std::optional<c10::ScalarType> scalar_type_of(const std::string& datatype);

// The datatype of a scalar type, or nothing where the protocol has none.
std::optional<std::string> datatype_of(c10::ScalarType type);

}  // namespace torchyard
