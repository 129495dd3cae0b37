#include "model/arch/table.h"

namespace lorad {

// Each is defined in the file of its name.
extern const Architecture kGemma;
extern const Architecture kGemma2;
extern const Architecture kGemma3;
extern const Architecture kLlama;
extern const Architecture kMistral;
extern const Architecture kOpt;
extern const Architecture kPhi;
extern const Architecture kPhi3;
extern const Architecture kQwen2;
extern const Architecture kQwen3;

absl::Span<const Architecture> Architectures() {
  static const Architecture all[] = {kGemma, kGemma2, kGemma3, kLlama, kMistral, kOpt, kPhi, kPhi3, kQwen2, kQwen3};
  return all;
}

const Architecture* FindArchitecture(absl::string_view name) {
  for (const Architecture& architecture : Architectures()) {
    if (name == architecture.name) return &architecture;
  }
  return nullptr;
}

}  // namespace lorad
