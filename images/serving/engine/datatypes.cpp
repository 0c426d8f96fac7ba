#include "datatypes.h"

#include <array>
#include <utility>

namespace torchyard {
namespace {

using c10::ScalarType;

const std::array<std::pair<const char*, ScalarType>, 13> kDatatypes{{
    {"BOOL", ScalarType::Bool},
    {"UINT8", ScalarType::Byte},
    {"UINT16", ScalarType::UInt16},
    {"UINT32", ScalarType::UInt32},
    {"UINT64", ScalarType::UInt64},
    {"INT8", ScalarType::Char},
    {"INT16", ScalarType::Short},
    {"INT32", ScalarType::Int},
    {"INT64", ScalarType::Long},
    {"FP16", ScalarType::Half},
    {"BF16", ScalarType::BFloat16},
    {"FP32", ScalarType::Float},
    {"FP64", ScalarType::Double},
}};

}  // namespace

std::optional<ScalarType> scalar_type_of(const std::string& datatype) {
  for (const auto& [name, type] : kDatatypes) {
    if (datatype == name) {
      return type;
    }
  }
  return std::nullopt;
}

std::optional<std::string> datatype_of(ScalarType type) {
  for (const auto& [name, known] : kDatatypes) {
    if (type == known) {
      return name;
    }
  }
  return std::nullopt;
}

}  // namespace torchyard
