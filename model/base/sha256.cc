#include "model/base/sha256.h"

#include <openssl/evp.h>

#include "absl/strings/escaping.h"
#include "model/base/check.h"

namespace lorad {

struct Sha256::Context {
  EVP_MD_CTX* md = EVP_MD_CTX_new();
  ~Context() { EVP_MD_CTX_free(md); }
};

Sha256::Sha256() : context_(std::make_unique<Context>()) {
  LORAD_CHECK(context_->md != nullptr);
  LORAD_CHECK_EQ(EVP_DigestInit_ex(context_->md, EVP_sha256(), nullptr), 1);
}

Sha256::~Sha256() = default;

void Sha256::Update(const void* data, size_t size_bytes) {
  LORAD_CHECK_EQ(EVP_DigestUpdate(context_->md, data, size_bytes), 1);
}

void Sha256::UpdateInt(int64_t value) {
  unsigned char bytes[8];
  for (int i = 0; i < 8; ++i) bytes[i] = static_cast<unsigned char>(static_cast<uint64_t>(value) >> (8 * i));
  Update(bytes, sizeof(bytes));
}

std::string Sha256::HexDigest() {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  LORAD_CHECK_EQ(EVP_DigestFinal_ex(context_->md, digest, &size), 1);
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(digest), size));
}

}  // namespace lorad
