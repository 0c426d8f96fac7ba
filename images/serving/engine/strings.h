// BYTES: strings as the protocol's binary tensors hold them, each its length (4 bytes, little-endian) and its bytes.
#pragma once

#include <cstdint>
#include <string_view>

#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

namespace torchyard {

// The `count` strings that `content` holds. Whether they are UTF-8 is not looked at: to TorchScript they are bytes.
// Throws InputError: it holds fewer or more, or one that is longer than what is left.
c10::List<std::string> strings_of(std::string_view content, int64_t count);

// Whether a value is a list of strings, be it an empty one.
bool are_strings(const c10::IValue& value);

// A list of strings as UINT8 [bytes]. Throws ModelError: one is longer than its length can say.
at::Tensor serialized(c10::ArrayRef<c10::IValue> strings);

}  // namespace torchyard
