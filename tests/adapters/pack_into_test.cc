#include "adapters/pack_into.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "adapters/checkpoint_tables.h"
#include "adapters/kinds/kind.h"
#include "model/config.h"
#include "tests/support/source_dir.h"

namespace lorad {
namespace {

// Stands in for a device: what goes there comes by copies, all of which are put off until somebody waits.
class PutOffMemory final : public PoolMemory {
 public:
  explicit PutOffMemory(std::vector<std::byte>* bytes)
      : PoolMemory(bytes->data(), static_cast<int64_t>(bytes->size())) {}
  int64_t fail_after_pieces = -1;  // -1: none fails

  bool on_host() const override { return false; }
  void Move(std::byte*, const std::byte*, int64_t) override {}
  void Swap(std::byte*, int64_t, int64_t) override {}
  void Discard(std::byte*, int64_t) override {}
  std::shared_ptr<void> SharedWithHost(int64_t) override { return nullptr; }
  absl::StatusOr<std::unique_ptr<PieceCopier>> NewCopier() override { return std::make_unique<Copier>(this); }

 private:
  class Copier final : public PieceCopier {
   public:
    explicit Copier(PutOffMemory* memory) : memory_(memory) {}
    absl::StatusOr<std::byte*> Next(int64_t bytes) override {
      if (memory_->fail_after_pieces == sent_) return absl::ResourceExhaustedError("pinned memory: none left");
      current_ = 1 - current_;
      Copy(current_);
      pieces_[current_].assign(static_cast<size_t>(bytes), std::byte{0xFF});
      return pieces_[current_].data();
    }
    absl::Status Send(std::byte* to) override {
      to_[current_] = to;
      ++sent_;
      return absl::OkStatus();
    }
    absl::Status Finish() override {
      Copy(0);
      Copy(1);
      return absl::OkStatus();
    }

   private:
    void Copy(int piece) {
      if (to_[piece] != nullptr) std::memcpy(to_[piece], pieces_[piece].data(), pieces_[piece].size());
      to_[piece] = nullptr;
    }
    PutOffMemory* const memory_;
    std::vector<std::byte> pieces_[2];
    std::byte* to_[2] = {};
    int current_ = 0;
    int64_t sent_ = 0;
  };
};

AdapterImage GoldenAdapter(const std::string& folder, const std::string& base, const std::string& name) {
  const std::string golden = SourceDir() + "/tests/golden/";
  const BaseShape shape = BaseShapeOf(ReadModelConfig(golden + base + "/model").value());
  const BaseTables tables = OpenBaseTables(golden + base + "/model", shape).value();
  return ReadAdapter(golden + folder + "/adapters/" + name, shape, *LocalFiles(), {.base_tables = tables}).value();
}

// Of every slot the bytes; what lies between its parts is nobody's.
void ExpectSameSlots(const PackedLayout& layout, const std::byte* got, const std::vector<std::byte>& expected) {
  std::vector<std::byte> zeroed_got(expected.size()), zeroed_expected(expected.size());
  for (const PackedSlot& slot : layout.slots) {
    const auto at = static_cast<size_t>(slot.begin_bytes);
    const auto bytes = static_cast<size_t>(slot.end_bytes - slot.begin_bytes);
    std::memcpy(zeroed_got.data() + at, got + at, bytes);
    std::memcpy(zeroed_expected.data() + at, expected.data() + at, bytes);
  }
  EXPECT_EQ(zeroed_got, zeroed_expected);
}

// What is kept as it is packed, and what is copied from there, on the host and into pieces.
void ExpectKeptAndCopied(const AdapterImage& image, const PackedLayout& layout) {
  const auto size = static_cast<size_t>(layout.total_bytes);
  std::vector<std::byte> in_place(size);
  Pack(image, layout, in_place.data());
  for (const bool on_host : {true, false}) {
    SCOPED_TRACE(on_host ? "host" : "pieces");
    WarmAdapters warm(layout.total_bytes + 4096);
    const std::shared_ptr<PackedAdapter> kept = warm.Make(1, layout);
    std::vector<std::byte> cold(size), again(size);
    PutOffMemory memory(&cold), other(&again);
    AdapterPacker packer(on_host ? nullptr : &memory), copier(on_host ? nullptr : &other);
    ASSERT_TRUE(packer.Pack(image, layout, cold.data(), kept.get()).ok());
    ExpectSameSlots(layout, cold.data(), in_place);
    EXPECT_EQ(std::memcmp(kept->memory->data(), in_place.data(), size), 0);
    ASSERT_TRUE(copier.Copy(*kept, again.data()).ok());
    EXPECT_EQ(again, in_place);
  }
}

// Rows that two sites share, ids of rows, DoRA, biases, routers, experts: in pieces as in place.
TEST(AdapterPackerTest, PiecesGiveTheSameBytesAsPackingInPlace) {
  struct {
    const char *folder, *base, *name;
  } const adapters[] = {{"qwen2", "qwen2", "saved_tied"},
                        {"llama3", "llama3", "trainable_tokens_of_both"},
                        {"llama_linear", "llama_linear", "dora_bias_all"},
                        {"llama3", "llama3", "lora_bias"},
                        {"mixtral", "mixtral", "experts"},
                        {"moe_peft/llama2", "llama2", "mixlora"}};
  for (const auto& adapter : adapters) {
    SCOPED_TRACE(adapter.name);
    const AdapterImage image = GoldenAdapter(adapter.folder, adapter.base, adapter.name);
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const PackedLayout layout = PlanLayout(image, dtype);
      const auto size = static_cast<size_t>(layout.total_bytes);
      // What lies between the parts is nobody's: as a new piece has it.
      std::vector<std::byte> in_place(size, std::byte{0xFF}), in_pieces(size, std::byte{0xFF});
      Pack(image, layout, in_place.data());
      PutOffMemory memory(&in_pieces);
      AdapterPacker packer(&memory);
      ASSERT_TRUE(packer.Pack(image, layout, in_pieces.data()).ok());
      EXPECT_EQ(in_pieces, in_place);
      ExpectKeptAndCopied(image, layout);
    }
  }
}

TEST(AdapterPackerTest, ALargeAdapterIsCopiedInSeveralPieces) {
  PackedLayout layout;
  layout.total_bytes = (int64_t{2} << 20) + 4321;
  WarmAdapters warm(int64_t{4} << 20);
  const std::shared_ptr<PackedAdapter> kept = warm.Make(1, layout);
  for (int64_t i = 0; i < layout.total_bytes; ++i) kept->memory->data()[i] = static_cast<std::byte>(i % 251);
  std::vector<std::byte> there(static_cast<size_t>(layout.total_bytes));
  PutOffMemory memory(&there);
  AdapterPacker packer(&memory);
  ASSERT_TRUE(packer.Copy(*kept, there.data()).ok());
  EXPECT_EQ(std::memcmp(there.data(), kept->memory->data(), there.size()), 0);
  std::fill(there.begin(), there.end(), std::byte{1});
  memory.fail_after_pieces = 2;
  AdapterPacker failing(&memory);
  EXPECT_EQ(failing.Copy(*kept, there.data()).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(std::memcmp(there.data(), kept->memory->data(), int64_t{2} << 20), 0);  // they were waited for
  EXPECT_EQ(there.back(), std::byte{1});
}

TEST(AdapterPackerTest, ACopierThatFailsIsTheAnswerAndNothingIsOnItsWayAfterwards) {
  const AdapterImage image = GoldenAdapter("llama3", "llama3", "all_linear");
  const PackedLayout layout = PlanLayout(image, DType::kF32);
  std::vector<std::byte> bytes(static_cast<size_t>(layout.total_bytes), std::byte{1});
  PutOffMemory memory(&bytes);
  memory.fail_after_pieces = 3;
  AdapterPacker packer(&memory);
  EXPECT_EQ(packer.Pack(image, layout, bytes.data()).code(), absl::StatusCode::kResourceExhausted);
  std::vector<std::byte> in_place(bytes.size());
  Pack(image, layout, in_place.data());
  EXPECT_EQ(std::memcmp(bytes.data(), in_place.data(), 64), 0);  // the first piece was waited for
  EXPECT_EQ(bytes.back(), std::byte{1});
}

}  // namespace
}  // namespace lorad
