#pragma once

#include <string>

#include <google/protobuf/message.h>

namespace lorad {

// Sets fields of `message` to values at and beyond limits (NaN, the largest number, an empty text), which changed bytes
// hardly ever reach. Every two bytes of `choices` choose a field and its value: the same bytes, the same changes.
void ChangeFields(const std::string& choices, google::protobuf::Message* message);

}  // namespace lorad
