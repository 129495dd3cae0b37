#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"

namespace lorad {

// Running SHA-256 of all that Update was given.
class Sha256 final {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void Update(const void* data, size_t size_bytes);
  void Update(absl::string_view text) { Update(text.data(), text.size()); }
  // Eight bytes, little-endian: lengths between fields keep different inputs from giving one stream.
  void UpdateInt(int64_t value);

  // 64 lower-case hex digits. Once; nothing may follow.
  std::string HexDigest();

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

}  // namespace lorad
