#include "strings.h"

#include <cstring>
#include <limits>
#include <string>

#include <ATen/Functions.h>

#include "errors.h"

namespace torchyard {
namespace {

using Length = uint32_t;

}  // namespace

c10::List<std::string> strings_of(std::string_view content, int64_t count) {
  c10::List<std::string> strings;
  for (int64_t index = 0; index < count; ++index) {
    Length length = 0;
    if (content.size() < sizeof(length)) {
      throw InputError(
          "BYTES: string " + std::to_string(index) + ": its length takes " + std::to_string(sizeof(length)) +
          " bytes, and " + std::to_string(content.size()) + " are left.");
    }
    std::memcpy(&length, content.data(), sizeof(length));
    content.remove_prefix(sizeof(length));
    if (content.size() < length) {
      throw InputError(
          "BYTES: string " + std::to_string(index) + ": it takes " + std::to_string(length) + " bytes, and " +
          std::to_string(content.size()) + " are left.");
    }
    strings.emplace_back(content.substr(0, length));
    content.remove_prefix(length);
  }
  if (!content.empty()) {
    throw InputError(
        "BYTES: " + std::to_string(content.size()) + " bytes are left after " + std::to_string(count) + " strings.");
  }
  return strings;
}

bool are_strings(const c10::IValue& value) {
  return value.isList() && value.toList().elementType()->kind() == c10::TypeKind::StringType;
}

at::Tensor serialized(c10::ArrayRef<c10::IValue> strings) {
  size_t size = 0;
  for (const auto& each : strings) {
    if (each.toStringRef().size() > std::numeric_limits<Length>::max()) {
      throw ModelError("forward() returned a string of 4 GiB or more, which the protocol cannot carry.");
    }
    size += sizeof(Length) + each.toStringRef().size();
  }
  auto tensor = at::empty({static_cast<int64_t>(size)}, at::kByte);
  auto* at = tensor.data_ptr<uint8_t>();
  for (const auto& each : strings) {
    const auto& text = each.toStringRef();
    const auto length = static_cast<Length>(text.size());
    std::memcpy(at, &length, sizeof(length));
    std::memcpy(at + sizeof(length), text.data(), text.size());
    at += sizeof(length) + text.size();
  }
  return tensor;
}

}  // namespace torchyard
