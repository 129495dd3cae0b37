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
extern const Architecture kMixtral;
extern const Architecture kQwen2;
extern const Architecture kQwen2Moe;
extern const Architecture kQwen3;
extern const Architecture kQwen3Moe;

absl::Span<const Architecture> Architectures() {
  static const Architecture all[] = {kGemma, kGemma2, kGemma3, kLlama,    kMistral, kMixtral, kOpt,
                                     kPhi,   kPhi3,   kQwen2,  kQwen2Moe, kQwen3,   kQwen3Moe};
  return all;
}

const Architecture* FindArchitecture(absl::string_view name) {
  for (const Architecture& architecture : Architectures()) {
    if (name == architecture.name) return &architecture;
  }
  return nullptr;
}

}  // namespace lorad
