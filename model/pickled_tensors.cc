#include "model/pickled_tensors.h"

#include <set>

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"
#include "model/pickle_machine.h"
#include "model/safetensors.h"

namespace lorad {

absl::StatusOr<std::vector<PickledTensor>> ReadPickledTensors(absl::string_view bytes, const std::string& path) {
  pickle::Machine machine(bytes, path);
  ASSIGN_OR_RETURN(const pickle::Ref root_ref, machine.Run());
  const pickle::Value& root = machine.at(root_ref);
  if (root.kind != pickle::Kind::kDict) return machine.Damaged("holds no dictionary of tensors");
  std::vector<PickledTensor> tensors;
  std::set<absl::string_view> names;
  for (size_t i = 0; i < root.items.size(); i += 2) {
    const pickle::Value& key = machine.at(root.items[i]);
    const pickle::Value& value = machine.at(root.items[i + 1]);
    if (key.kind != pickle::Kind::kString) return machine.Damaged("a key that is no string");
    if (value.kind != pickle::Kind::kTensor) {
      return absl::UnimplementedError(absl::StrCat(path, ": pickle: ", Printable(key.text), ": holds ",
                                                   pickle::Machine::NameOf(value.kind), ", not a tensor"));
    }
    if (!names.insert(key.text).second) return machine.Damaged(absl::StrCat("duplicate name: ", Printable(key.text)));
    const pickle::Value& storage = machine.at(value.items[0]);
    tensors.push_back({.name = key.text,
                       .storage = storage.text,
                       .dtype = storage.global->dtype,
                       .storage_elements = storage.number,
                       .offset = value.number,
                       .shape = value.shape,
                       .strides = value.strides});
  }
  return tensors;
}

}  // namespace lorad
