#include "tests/fuzz/field_changes.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <utility>

namespace lorad {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;
using Double = std::numeric_limits<double>;

// The limits of proto/lorad/v1/inference.proto, and what lies on either side.
constexpr std::array<double, 20> kReals = {0,
                                           -0.0,
                                           1e-30,
                                           0.01,
                                           0.5,
                                           1,
                                           1.001,
                                           2,
                                           2.001,
                                           64,
                                           100,
                                           -1,
                                           -2.5,
                                           -1000,
                                           1000,
                                           1e3 + 1,
                                           1e38,
                                           Double::infinity(),
                                           -Double::infinity(),
                                           Double::quiet_NaN()};
constexpr std::array<int64_t, 16> kIntegers = {0,   1,    2,    8,    20,         21,         64,         65,
                                               999, 1000, 1001, 4096, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, -1};

std::string Text(uint8_t choice) {
  const std::array<std::string, 8> texts = {"",     "a",   std::string(129, 'x'), std::string(1025, 'x'), "a b",
                                            "../a", "a@1", std::string("a\0b", 3)};
  return texts[choice % texts.size()];
}

// Calls the setter of a single field, or the adder of a repeated one.
template <typename T>
void Put(Message* message, const FieldDescriptor* field, T value,
         void (Reflection::*set)(Message*, const FieldDescriptor*, T) const,
         void (Reflection::*add)(Message*, const FieldDescriptor*, T) const) {
  (message->GetReflection()->*(field->is_repeated() ? add : set))(message, field, std::move(value));
}

void SetScalar(Message* message, const FieldDescriptor* field, uint8_t choice) {
  const double real = kReals[choice % kReals.size()];
  const int64_t integer = kIntegers[choice % kIntegers.size()];
  using R = Reflection;
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_FLOAT:
      return Put(message, field, static_cast<float>(real), &R::SetFloat, &R::AddFloat);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return Put(message, field, real, &R::SetDouble, &R::AddDouble);
    case FieldDescriptor::CPPTYPE_INT32:
      return Put(message, field, static_cast<int32_t>(integer), &R::SetInt32, &R::AddInt32);
    case FieldDescriptor::CPPTYPE_UINT32:
      return Put(message, field, static_cast<uint32_t>(integer), &R::SetUInt32, &R::AddUInt32);
    case FieldDescriptor::CPPTYPE_INT64:
      return Put(message, field, integer, &R::SetInt64, &R::AddInt64);
    case FieldDescriptor::CPPTYPE_UINT64:
      return Put(message, field, static_cast<uint64_t>(integer), &R::SetUInt64, &R::AddUInt64);
    case FieldDescriptor::CPPTYPE_BOOL:
      return Put(message, field, choice % 2 == 1, &R::SetBool, &R::AddBool);
    case FieldDescriptor::CPPTYPE_ENUM:
      return Put(message, field, static_cast<int>(choice), &R::SetEnumValue, &R::AddEnumValue);
    case FieldDescriptor::CPPTYPE_STRING:
      return Put(message, field, Text(choice), &R::SetString, &R::AddString);
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return;
  }
}

// One change, at `choices[at]` and what follows; returns where the next one begins.
size_t ChangeField(const std::string& choices, size_t at, Message* message) {
  const auto choice = [&](size_t i) { return i < choices.size() ? static_cast<uint8_t>(choices[i]) : uint8_t{0}; };
  const auto* descriptor = message->GetDescriptor();
  if (descriptor->field_count() == 0) return at + 1;
  const FieldDescriptor* field = descriptor->field(choice(at) % descriptor->field_count());
  const Reflection* reflection = message->GetReflection();
  if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) {
    SetScalar(message, field, choice(at + 1));
    return at + 2;
  }
  Message* inner = nullptr;
  if (!field->is_repeated()) {
    inner = reflection->MutableMessage(message, field);
  } else if (const int size = reflection->FieldSize(*message, field); size > 0 && choice(at) >= 128) {
    inner = reflection->MutableRepeatedMessage(message, field, size - 1);
  } else {
    inner = reflection->AddMessage(message, field);
  }
  return ChangeField(choices, at + 1, inner);
}

}  // namespace

void ChangeFields(const std::string& choices, google::protobuf::Message* message) {
  constexpr size_t kMostBytes = 256;  // more would only fill repeated fields
  for (size_t at = 0; at < std::min(choices.size(), kMostBytes);) at = ChangeField(choices, at, message);
}

}  // namespace lorad
