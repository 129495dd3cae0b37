#include "model/pickle_machine.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"
#include "model/safetensors.h"

namespace lorad::pickle {
namespace {

constexpr size_t kMaxValues = size_t{1} << 19;  // some 20 a tensor
constexpr size_t kMaxDims = 16;

constexpr KnownGlobal kKnownGlobals[] = {
    {"collections.OrderedDict", GlobalUse::kOrderedDict},
    {"torch._utils._rebuild_tensor_v2", GlobalUse::kRebuildTensor},
    {"torch._utils._rebuild_parameter", GlobalUse::kRebuildParameter},
    {"torch.FloatStorage", GlobalUse::kStorage, DType::kF32},
    {"torch.HalfStorage", GlobalUse::kStorage, DType::kF16},
    {"torch.BFloat16Storage", GlobalUse::kStorage, DType::kBF16},
    {"torch.DoubleStorage", GlobalUse::kStorage, DType::kF64},
    {"torch.LongStorage", GlobalUse::kStorage, DType::kI64},
    {"torch.IntStorage", GlobalUse::kStorage, DType::kI32},
    {"torch.ShortStorage", GlobalUse::kStorage, DType::kI16},
    {"torch.CharStorage", GlobalUse::kStorage, DType::kI8},
    {"torch.ByteStorage", GlobalUse::kStorage, DType::kU8},
    {"torch.BoolStorage", GlobalUse::kStorage, DType::kBool},
};

constexpr const char* kKindNames[] = {"None",   "a bool", "a number", "a float",   "a string", "a tuple",
                                      "a list", "a dict", "a global", "a storage", "a tensor"};

}  // namespace

const char* Machine::NameOf(Kind kind) { return kKindNames[static_cast<size_t>(kind)]; }

absl::StatusOr<Ref> Machine::Run() {
  while (true) {
    ASSIGN_OR_RETURN(const absl::string_view opcode, Bytes(1));
    if (opcode[0] == '.') return Pop();
    RETURN_IF_ERROR(Step(opcode[0]));
  }
}

absl::Status Machine::Damaged(absl::string_view what) const {
  return absl::DataLossError(absl::StrCat(path_, ": pickle: ", what));
}

absl::Status Machine::Unsupported(absl::string_view what) const {
  return absl::UnimplementedError(
      absl::StrCat(path_, ": pickle: ", what,
                   "; only tensors by name are read, and nothing in a pickle is ever run; save it as safetensors"));
}

absl::StatusOr<absl::string_view> Machine::Bytes(uint64_t size) {
  if (size > pickle_.size() - at_) return Damaged("ends early");
  const absl::string_view bytes = pickle_.substr(at_, size);
  at_ += size;
  return bytes;
}

absl::StatusOr<uint64_t> Machine::Number(int size) {
  ASSIGN_OR_RETURN(const absl::string_view bytes, Bytes(size));
  uint64_t value = 0;
  for (int i = size - 1; i >= 0; --i) value = value << 8 | static_cast<unsigned char>(bytes[i]);
  return value;
}

absl::StatusOr<absl::string_view> Machine::Line() {
  const size_t end = pickle_.find('\n', at_);
  if (end == absl::string_view::npos) return Damaged("ends early");
  const absl::string_view line = pickle_.substr(at_, end - at_);
  at_ = end + 1;
  return line;
}

absl::Status Machine::Push(Value value) {
  if (values_.size() >= kMaxValues) return Damaged(absl::StrCat("more values than the limit: ", kMaxValues));
  values_.push_back(std::move(value));
  return PushRef(static_cast<Ref>(values_.size() - 1));
}

absl::Status Machine::PushRef(Ref ref) {
  if (stack_.size() >= kMaxValues) return Damaged(absl::StrCat("a stack larger than the limit: ", kMaxValues));
  stack_.push_back(ref);
  return absl::OkStatus();
}

absl::StatusOr<Ref> Machine::Pop() {
  if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) return Damaged("takes from an empty stack");
  const Ref ref = stack_.back();
  stack_.pop_back();
  return ref;
}

absl::StatusOr<std::vector<Ref>> Machine::PopToMark() {
  if (marks_.empty()) return Damaged("no mark to go back to");
  std::vector<Ref> items(stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back()), stack_.end());
  stack_.resize(marks_.back());
  marks_.pop_back();
  return items;
}

absl::StatusOr<Value*> Machine::Top(Kind kind) {
  if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) return Damaged("changes what is not there");
  Value* const value = &values_[stack_.back()];
  if (value->kind != kind) {
    return Damaged(absl::StrCat("changes ", NameOf(value->kind), " as if it were ", NameOf(kind)));
  }
  return value;
}

absl::Status Machine::Step(char opcode) {
  const auto number = [this](int size, auto then) -> absl::Status {
    ASSIGN_OR_RETURN(const uint64_t value, Number(size));
    return then(value);
  };
  const auto put = [this](uint64_t key) { return Put(key); };
  const auto get = [this](uint64_t key) { return Get(key); };
  const auto push = [this](uint64_t value) { return PushNumber(value); };
  switch (static_cast<unsigned char>(opcode)) {
    case 0x80:  // PROTO
      return number(1, [this](uint64_t version) {
        return version >= 2 && version <= 5 ? absl::OkStatus() : Unsupported(absl::StrCat("protocol ", version));
      });
    case 0x95:  // FRAME
      return Bytes(8).status();
    case '(':
      if (marks_.size() >= kMaxValues) return Damaged("too many marks");
      marks_.push_back(stack_.size());
      return absl::OkStatus();
    case 'N':
      return Push({.kind = Kind::kNone});
    case 0x88:
    case 0x89:
      return Push({.kind = Kind::kBool, .number = static_cast<unsigned char>(opcode) == 0x88});
    case 'K':
      return number(1, push);
    case 'M':
      return number(2, push);
    case 'J':
      return number(4, [&](uint64_t value) { return push(static_cast<uint64_t>(static_cast<int32_t>(value))); });
    case 0x8a:
      return PushLong();
    case 'G':
      RETURN_IF_ERROR(Bytes(8).status());
      return Push({.kind = Kind::kFloat});
    case 'X':
      return PushText(4);
    case 0x8c:
      return PushText(1);
    case 0x8d:
      return PushText(8);
    case '}':
      return Push({.kind = Kind::kDict});
    case ']':
      return Push({.kind = Kind::kList});
    case ')':
      return PushTuple(0);
    case 0x85:
    case 0x86:
    case 0x87:
      return PushTuple(static_cast<unsigned char>(opcode) - 0x84);
    case 't': {
      ASSIGN_OR_RETURN(std::vector<Ref> items, PopToMark());
      return Push({.kind = Kind::kTuple, .items = std::move(items)});
    }
    case 'q':
      return number(1, put);
    case 'r':
      return number(4, put);
    case 0x94:
      return Put(memo_.size());
    case 'h':
      return number(1, get);
    case 'j':
      return number(4, get);
    case 'c': {
      ASSIGN_OR_RETURN(const absl::string_view module, Line());
      ASSIGN_OR_RETURN(const absl::string_view name, Line());
      return FindGlobal(module, name);
    }
    case 0x93:
      return StackGlobal();
    case 's': {
      ASSIGN_OR_RETURN(const Ref value, Pop());
      ASSIGN_OR_RETURN(const Ref key, Pop());
      return AddItems(Kind::kDict, {key, value});
    }
    case 'u': {
      ASSIGN_OR_RETURN(std::vector<Ref> items, PopToMark());
      return AddItems(Kind::kDict, std::move(items));
    }
    case 'a': {
      ASSIGN_OR_RETURN(const Ref item, Pop());
      return AddItems(Kind::kList, {item});
    }
    case 'e': {
      ASSIGN_OR_RETURN(std::vector<Ref> items, PopToMark());
      return AddItems(Kind::kList, std::move(items));
    }
    case 'Q':
      return Persistent();
    case 'R':
      return Reduce();
    case 'b':
      return Build();
    default:
      return Unsupported(absl::StrCat("opcode 0x", absl::Hex(static_cast<unsigned char>(opcode), absl::kZeroPad2),
                                      " at byte ", at_ - 1));
  }
}

absl::Status Machine::PushLong() {
  ASSIGN_OR_RETURN(const uint64_t size, Number(1));
  if (size > 8) return Unsupported(absl::StrCat("a whole number of bytes: ", size, "; limit: 8"));
  ASSIGN_OR_RETURN(uint64_t value, Number(static_cast<int>(size)));
  const bool negative = size > 0 && size < 8 && (value >> (8 * size - 1)) != 0;
  if (negative) value |= ~uint64_t{0} << (8 * size);
  return PushNumber(value);
}

absl::Status Machine::PushText(int length_bytes) {
  ASSIGN_OR_RETURN(const uint64_t size, Number(length_bytes));
  ASSIGN_OR_RETURN(const absl::string_view text, Bytes(size));
  return Push({.kind = Kind::kString, .text = std::string(text)});
}

absl::Status Machine::PushTuple(int size) {
  std::vector<Ref> items(size);
  for (int i = size - 1; i >= 0; --i) {
    ASSIGN_OR_RETURN(items[i], Pop());
  }
  return Push({.kind = Kind::kTuple, .items = std::move(items)});
}

absl::Status Machine::Put(uint64_t key) {
  if (stack_.empty()) return Damaged("remembers what is not there");
  memo_[key] = stack_.back();
  return absl::OkStatus();
}

absl::Status Machine::Get(uint64_t key) {
  const auto found = memo_.find(key);
  if (found == memo_.end()) return Damaged(absl::StrCat("recalls what it never remembered: ", key));
  return PushRef(found->second);
}

absl::Status Machine::FindGlobal(absl::string_view module, absl::string_view name) {
  const std::string full = absl::StrCat(module, ".", name);
  for (const KnownGlobal& known : kKnownGlobals) {
    if (known.name == full) return Push({.kind = Kind::kGlobal, .global = &known});
  }
  return Unsupported(absl::StrCat("global ", Printable(full)));
}

absl::Status Machine::StackGlobal() {
  ASSIGN_OR_RETURN(const Ref name, Pop());
  ASSIGN_OR_RETURN(const Ref module, Pop());
  if (at(name).kind != Kind::kString || at(module).kind != Kind::kString) return Damaged("a global without a name");
  return FindGlobal(at(module).text, at(name).text);
}

absl::Status Machine::AddItems(Kind kind, std::vector<Ref> items) {
  ASSIGN_OR_RETURN(Value* const value, Top(kind));
  if (kind == Kind::kDict && items.size() % 2 != 0) return Damaged("a key without a value");
  value->items.insert(value->items.end(), items.begin(), items.end());
  return absl::OkStatus();
}

// ("storage", type, key, location, elements): the only thing that lies outside the pickle.
absl::Status Machine::Persistent() {
  ASSIGN_OR_RETURN(const Ref id, Pop());
  const std::vector<Ref>& parts = at(id).items;
  const bool is_storage = at(id).kind == Kind::kTuple && parts.size() == 5 && at(parts[0]).text == "storage" &&
                          at(parts[1]).kind == Kind::kGlobal && at(parts[1]).global->use == GlobalUse::kStorage &&
                          at(parts[2]).kind == Kind::kString && at(parts[4]).kind == Kind::kInt;
  if (!is_storage) return Unsupported("a persistent id that is no storage of a known type");
  return Push({.kind = Kind::kStorage,
               .number = at(parts[4]).number,
               .text = at(parts[2]).text,
               .global = at(parts[1]).global});
}

absl::Status Machine::Reduce() {
  ASSIGN_OR_RETURN(const Ref args_ref, Pop());
  ASSIGN_OR_RETURN(const Ref callable, Pop());
  if (at(callable).kind != Kind::kGlobal) return Damaged(absl::StrCat("calls ", NameOf(at(callable).kind)));
  if (at(args_ref).kind != Kind::kTuple) return Damaged("calls without a tuple of arguments");
  const KnownGlobal& global = *at(callable).global;
  const std::vector<Ref>& args = at(args_ref).items;
  switch (global.use) {
    case GlobalUse::kOrderedDict:
      if (!args.empty()) return Unsupported("OrderedDict with arguments");
      return Push({.kind = Kind::kDict});
    case GlobalUse::kRebuildTensor:
      return RebuildTensor(args);
    case GlobalUse::kRebuildParameter:  // (tensor, requires_grad, hooks): as good as its tensor
      if (args.size() < 2 || at(args[0]).kind != Kind::kTensor) return Damaged("a parameter without a tensor");
      return PushRef(args[0]);
    case GlobalUse::kStorage:
      break;
  }
  return Unsupported(absl::StrCat("a call of ", std::string(global.name)));
}

// The attributes of a dictionary, as _metadata of a state_dict, say nothing of the tensors.
absl::Status Machine::Build() {
  RETURN_IF_ERROR(Pop().status());
  return Top(Kind::kDict).status();
}

absl::StatusOr<std::vector<int64_t>> Machine::Sizes(Ref ref) const {
  const Value& value = at(ref);
  if (value.kind != Kind::kTuple) return Damaged(absl::StrCat("a shape or strides that are ", NameOf(value.kind)));
  if (value.items.size() > kMaxDims) {
    return Damaged(absl::StrCat("dimensions: ", value.items.size(), "; limit: ", kMaxDims));
  }
  std::vector<int64_t> sizes;
  for (const Ref item : value.items) {
    if (at(item).kind != Kind::kInt || at(item).number < 0) return Damaged("a size or stride that is no count");
    sizes.push_back(at(item).number);
  }
  return sizes;
}

// (storage, offset, shape, strides, requires_grad, hooks[, metadata])
absl::Status Machine::RebuildTensor(const std::vector<Ref>& args) {
  if (args.size() < 6 || args.size() > 7 || at(args[0]).kind != Kind::kStorage || at(args[1]).kind != Kind::kInt) {
    return Damaged("a tensor without storage and offset");
  }
  Value tensor{.kind = Kind::kTensor, .number = at(args[1]).number, .items = {args[0]}};
  ASSIGN_OR_RETURN(tensor.shape, Sizes(args[2]));
  ASSIGN_OR_RETURN(tensor.strides, Sizes(args[3]));
  if (tensor.shape.size() != tensor.strides.size())
    return Damaged("a tensor with more or fewer strides than dimensions");
  const int64_t elements = at(args[0]).number;
  int64_t last = tensor.number;
  int64_t product = 1;
  bool overflow = false, empty = false;
  for (size_t i = 0; i < tensor.shape.size(); ++i) {
    const int64_t dim = tensor.shape[i];
    empty |= dim == 0;
    int64_t reach = 0;
    overflow |= __builtin_mul_overflow(product, std::max<int64_t>(dim, 1), &product);
    overflow |= __builtin_mul_overflow(std::max<int64_t>(dim, 1) - 1, tensor.strides[i], &reach);
    overflow |= __builtin_add_overflow(last, reach, &last);
  }
  const bool outside =
      tensor.number < 0 || elements < 0 || overflow || (empty ? tensor.number > elements : last >= elements);
  if (outside) {
    return Damaged(absl::StrCat("a view out of its storage: offset: ", tensor.number,
                                ", shape: ", ShapeText(tensor.shape), ", strides: ", ShapeText(tensor.strides),
                                "; elements: ", elements));
  }
  return Push(std::move(tensor));
}

}  // namespace lorad::pickle
