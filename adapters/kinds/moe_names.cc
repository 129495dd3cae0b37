#include "adapters/kinds/moe_names.h"

#include <re2/re2.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace lorad {

bool IsOfFfn(Site site) {
  return site == Site::kGateProj || site == Site::kUpProj || site == Site::kDownProj || site == Site::kGateUpProj;
}

bool IsOfAttention(Site site) {
  return site == Site::kQProj || site == Site::kKProj || site == Site::kVProj || site == Site::kOProj ||
         site == Site::kQkvProj;
}

const SiteShape* FindMoeTarget(const BaseShape& base, const std::string& name) {
  const auto found = std::find_if(base.sites.begin(), base.sites.end(), [&](const SiteShape& shape) {
    return (IsOfFfn(shape.site) || IsOfAttention(shape.site)) && LastName(shape.module_path) == name;
  });
  return found == base.sites.end() ? nullptr : &*found;
}

std::string LastName(const std::string& module_path) { return module_path.substr(module_path.rfind('.') + 1); }

std::string MoeFfnPath(const std::string& prefix, int32_t layer) {
  return absl::StrCat(prefix, ".layers.", layer, ".mlp");
}

std::string MoeProjectionPath(const std::string& prefix, int32_t layer, const SiteShape& shape) {
  return absl::StrCat(prefix, ".layers.", layer, IsOfFfn(shape.site) ? ".mlp." : ".self_attn.",
                      LastName(shape.module_path));
}

std::string PresentMoeName(const std::string& name) {
  static const RE2 router(R"((mixlora\.layers\.\d+)\.gate\.weight)");
  static const RE2 expert(R"((mixlora\.layers\.\d+)\.experts\.(\d+)\.(\w+)_proj\.(lora_[AB]\.weight))");
  std::string layer, number, projection, pair;
  if (RE2::FullMatch(name, router, &layer)) return layer + ".mlp.moe_gate.weight";
  if (!RE2::FullMatch(name, expert, &layer, &number, &projection, &pair)) return name;
  for (const auto& [old, present] : {std::pair("w1", "gate"), std::pair("w2", "down"), std::pair("w3", "up")}) {
    if (projection == old) projection = present;
  }
  return absl::StrCat(layer, ".mlp.", projection, "_proj.experts.", number, ".", pair);
}

}  // namespace lorad
