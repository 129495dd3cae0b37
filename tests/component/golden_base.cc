#include "tests/component/golden_base.h"

#include <map>
#include <memory>
#include <utility>

#include "model/base/check.h"
#include "tests/support/source_dir.h"

namespace lorad {

std::string GoldenDir(const std::string& base) { return SourceDir() + "/tests/golden/" + base; }

CausalLm& GoldenBase(const std::string& base) {
  static std::map<std::string, std::unique_ptr<CausalLm>> bases;
  std::unique_ptr<CausalLm>& model = bases[base];
  if (model == nullptr) {
    absl::StatusOr<std::unique_ptr<CausalLm>> loaded = CausalLm::Load(GoldenDir(base) + "/model", LoadOptions());
    LORAD_CHECK(loaded.ok());
    model = *std::move(loaded);
  }
  return *model;
}

}  // namespace lorad
