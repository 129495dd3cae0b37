#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/base/dtype.h"

namespace lorad::pickle {

// What a pickle may name: each stands for building tensors.
enum class GlobalUse : uint8_t { kOrderedDict, kRebuildTensor, kRebuildParameter, kStorage };
struct KnownGlobal {
  absl::string_view name;
  GlobalUse use;
  DType dtype = DType::kF32;  // of kStorage
};

// Values refer to each other by place, never by pointer: a pickle may nest as deep as it is long.
using Ref = uint32_t;
enum class Kind : uint8_t { kNone, kBool, kInt, kFloat, kString, kTuple, kList, kDict, kGlobal, kStorage, kTensor };
struct Value {
  Kind kind = Kind::kNone;
  int64_t number = 0;                   // kBool, kInt; elements of kStorage; offset of kTensor
  std::string text = {};                // kString; key of kStorage
  std::vector<Ref> items = {};          // kTuple, kList; keys and values in turn of kDict; the storage of kTensor
  std::vector<int64_t> shape = {};      // kTensor
  std::vector<int64_t> strides = {};    // kTensor
  const KnownGlobal* global = nullptr;  // kGlobal; the type of kStorage
};

// A machine for pickle's opcodes that builds values and runs nothing.
//
// Errors   as ReadPickledTensors.
class Machine final {
 public:
  // Both outlive it.
  Machine(absl::string_view pickle, const std::string& path) : pickle_(pickle), path_(path) {}

  // The value that the pickle is of.
  absl::StatusOr<Ref> Run();
  const Value& at(Ref ref) const { return values_[ref]; }
  static const char* NameOf(Kind kind);  // "a dict"

  absl::Status Damaged(absl::string_view what) const;

 private:
  absl::Status Unsupported(absl::string_view what) const;
  absl::StatusOr<absl::string_view> Bytes(uint64_t size);
  absl::StatusOr<uint64_t> Number(int size);
  absl::StatusOr<absl::string_view> Line();

  absl::Status Push(Value value);
  absl::Status PushRef(Ref ref);
  absl::StatusOr<Ref> Pop();
  absl::StatusOr<std::vector<Ref>> PopToMark();  // all since the last mark
  absl::StatusOr<Value*> Top(Kind kind);

  absl::Status Step(char opcode);
  absl::Status PushNumber(uint64_t value) { return Push({.kind = Kind::kInt, .number = static_cast<int64_t>(value)}); }
  absl::Status PushLong();
  absl::Status PushText(int length_bytes);
  absl::Status PushTuple(int size);
  absl::Status Put(uint64_t key);
  absl::Status Get(uint64_t key);
  absl::Status FindGlobal(absl::string_view module, absl::string_view name);
  absl::Status StackGlobal();
  absl::Status AddItems(Kind kind, std::vector<Ref> items);
  absl::Status Persistent();
  absl::Status Reduce();
  absl::Status Build();
  absl::Status RebuildTensor(const std::vector<Ref>& args);
  absl::StatusOr<std::vector<int64_t>> Sizes(Ref ref) const;

  const absl::string_view pickle_;
  const std::string& path_;
  size_t at_ = 0;
  std::deque<Value> values_;
  std::vector<Ref> stack_;
  std::vector<size_t> marks_;  // sizes of the stack
  std::unordered_map<uint64_t, Ref> memo_;
};

}  // namespace lorad::pickle
