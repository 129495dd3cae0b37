// Reads an adapter's folder and writes it anew, so that peft can be asked whether it reads the same; see
// tests/golden/check_exports.py.
//   rewrite_adapter MODEL ADAPTER OUTPUT
#include <cstdio>

#include "adapters/checkpoint_tables.h"
#include "adapters/kinds/kind.h"
#include "model/base/status_macros.h"
#include "model/config.h"

namespace lorad {
namespace {

absl::Status Rewrite(const std::string& model, const std::string& adapter, const std::string& output) {
  ASSIGN_OR_RETURN(const ModelConfig config, ReadModelConfig(model));
  const BaseShape base = BaseShapeOf(config);
  ASSIGN_OR_RETURN(const BaseTables tables, OpenBaseTables(model, base));
  ASSIGN_OR_RETURN(const AdapterImage image, ReadAdapter(adapter, base, *LocalFiles(), {.base_tables = tables}));
  ASSIGN_OR_RETURN(const std::unique_ptr<NewFolder> folder, NewFolder::Create(output));
  RETURN_IF_ERROR(WriteAdapter(image, base, tables, *folder));
  return folder->Publish();
}

}  // namespace
}  // namespace lorad

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const absl::Status status = lorad::Rewrite(argv[1], argv[2], argv[3]);
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
