#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "model/text/detokenizer.h"
#include "model/text/tokenizer.h"
#include "model/text/utf8.h"
#include "tests/support/status_matchers.h"
#include "tests/text/golden.h"

namespace lorad {
namespace {

class TokenizerGoldenTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    absl::StatusOr<std::shared_ptr<const Tokenizer>> loaded = Tokenizer::Load(GoldenTokenizerDir(GetParam()));
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    tokenizer_ = *loaded;
    golden_ = ReadTokenizerGolden(GetParam());
    ASSERT_EQ(golden_.strings.size(), 300u);
    ASSERT_EQ(golden_.sequences.size(), 150u);
  }

  // The deltas' concatenation; each must be valid UTF-8.
  std::string Stream(absl::Span<const int32_t> prompt, absl::Span<const int32_t> ids, bool skip_special_tokens) {
    Detokenizer detokenizer(tokenizer_, prompt, skip_special_tokens);
    std::string text;
    for (const int32_t id : ids) text += Valid(detokenizer.Append(id));
    return text + Valid(detokenizer.Finish());
  }

  std::string Valid(std::string delta) {
    EXPECT_EQ(FindInvalidUtf8(delta), std::nullopt) << delta;
    return delta;
  }

  std::shared_ptr<const Tokenizer> tokenizer_;
  TokenizerGolden golden_;
};

TEST_P(TokenizerGoldenTest, IdsEqual) {
  EXPECT_EQ(tokenizer_->vocab_size(), golden_.size);
  for (const StringCase& c : golden_.strings) {
    EXPECT_EQ(*tokenizer_->Encode(c.text, false), c.ids) << c.text;
    EXPECT_EQ(*tokenizer_->Encode(c.text, true), c.whole) << c.text;
  }
}

// Where an added token is written in the text, its place is certain; what is around it is told by the ids.
TEST_P(TokenizerGoldenTest, TokensKnowWhereTheyBegin) {
  for (const StringCase& c : golden_.strings) {
    const auto tokens = tokenizer_->EncodeWithBegins(c.text);
    ASSERT_THAT(tokens, IsOk());
    std::vector<int32_t> ids;
    for (size_t i = 0; i < tokens->size(); ++i) {
      ids.push_back((*tokens)[i].id);
      EXPECT_LE((*tokens)[i].begin, c.text.size());
      if (i > 0) {
        EXPECT_GE((*tokens)[i].begin, (*tokens)[i - 1].begin) << c.text;
      }
      const std::string piece = *tokenizer_->IdToPiece(ids.back());
      if (piece.size() > 4 && tokenizer_->is_special(ids.back()) && c.text.find(piece) != std::string::npos) {
        // A token with lstrip takes the spaces before it.
        const size_t begin = std::min(c.text.find_first_not_of(' ', (*tokens)[i].begin), c.text.size());
        EXPECT_EQ(c.text.compare(begin, piece.size(), piece), 0) << c.text << " at " << i;
      }
    }
    EXPECT_EQ(ids, c.ids) << c.text;
  }
}

TEST_P(TokenizerGoldenTest, DecodesEqual) {
  for (const StringCase& c : golden_.strings) {
    EXPECT_EQ(*tokenizer_->Decode(c.whole, true), c.shown) << c.text;
    EXPECT_EQ(*tokenizer_->Decode(c.whole, false), c.all) << c.text;
  }
  for (const SequenceCase& c : golden_.sequences) {
    EXPECT_EQ(*tokenizer_->Decode(c.ids, true), c.shown) << testing::PrintToString(c.ids);
    EXPECT_EQ(*tokenizer_->Decode(c.ids, false), c.all) << testing::PrintToString(c.ids);
  }
}

// After each id, except inside a run of byte pieces, which is held back until it ends; skipped ids do not end it.
TEST_P(TokenizerGoldenTest, StreamedPiecesEqual) {
  for (const StringCase& c : golden_.strings) {
    Detokenizer detokenizer(tokenizer_, {}, /*skip_special_tokens=*/true);
    ASSERT_EQ(c.piece_bytes.size(), c.whole.size());
    std::string text;
    size_t expected_bytes = 0;
    for (size_t i = 0; i < c.whole.size(); ++i) {
      text += Valid(detokenizer.Append(c.whole[i]));
      expected_bytes += c.piece_bytes[i];
      if (tokenizer_->joins_byte_run(c.whole[i]) || tokenizer_->is_special(c.whole[i])) continue;
      EXPECT_EQ(text, c.shown.substr(0, expected_bytes)) << c.text << " after id " << i;
    }
    EXPECT_EQ(text + Valid(detokenizer.Finish()), c.shown);
  }
}

TEST_P(TokenizerGoldenTest, StreamOfAnyIdsIsTheirDecode) {
  for (const SequenceCase& c : golden_.sequences) {
    EXPECT_EQ(Stream({}, c.ids, true), c.shown) << testing::PrintToString(c.ids);
    EXPECT_EQ(Stream({}, c.ids, false), c.all) << testing::PrintToString(c.ids);
  }
}

TEST_P(TokenizerGoldenTest, StreamBehindAPromptGoesOnWhereThePromptEnds) {
  int compared = 0;
  for (const StringCase& c : golden_.strings) {
    for (size_t cut = 1; cut < c.whole.size(); cut += 3) {
      const absl::Span<const int32_t> ids(c.whole);
      const std::string prompt = *tokenizer_->Decode(ids.subspan(0, cut), true);
      // A prompt that ends inside a character has no end in the text.
      if (c.shown.compare(0, prompt.size(), prompt) != 0) continue;
      EXPECT_EQ(Stream(ids.subspan(0, cut), ids.subspan(cut), true), c.shown.substr(prompt.size()))
          << c.text << " cut at " << cut;
      ++compared;
    }
  }
  EXPECT_GT(compared, 1000);
}

TEST_P(TokenizerGoldenTest, PiecesLeadBackToTheirIds) {
  for (int32_t id = 0; id < tokenizer_->vocab_size(); ++id) {
    const absl::StatusOr<std::string> piece = tokenizer_->IdToPiece(id);
    ASSERT_TRUE(piece.ok()) << piece.status();
    EXPECT_EQ(tokenizer_->PieceToId(*piece), id) << *piece;
  }
  EXPECT_EQ(tokenizer_->PieceToId("no such piece"), std::nullopt);
}

TEST_P(TokenizerGoldenTest, SpecialTokensShowNothingWhenSkipped) {
  int special = 0;
  for (int32_t id = 0; id < tokenizer_->vocab_size(); ++id) {
    if (!tokenizer_->is_special(id)) continue;
    ++special;
    EXPECT_EQ(*tokenizer_->Decode({id}, true), "");
    EXPECT_EQ(Stream({}, {id}, true), "");
  }
  EXPECT_GT(special, 0);
  EXPECT_FALSE(tokenizer_->is_special(-1));
  EXPECT_FALSE(tokenizer_->is_special(tokenizer_->vocab_size()));
}

TEST_P(TokenizerGoldenTest, ThreadsShareOne) {
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (size_t i = static_cast<size_t>(t); i < golden_.strings.size(); i += 2) {
        const StringCase& c = golden_.strings[i];
        const absl::StatusOr<std::vector<int32_t>> ids = tokenizer_->Encode(c.text, true);
        const absl::StatusOr<std::string> text = tokenizer_->Decode(c.whole, true);
        if (!ids.ok() || *ids != c.whole || !text.ok() || *text != c.shown) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST_P(TokenizerGoldenTest, BadInputIsNamed) {
  const absl::StatusOr<std::vector<int32_t>> ids = tokenizer_->Encode("ab\xC3(", false);
  EXPECT_EQ(ids.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(ids.status().message().find("byte offset: 2"), absl::string_view::npos) << ids.status();
  for (const int32_t id : {-1, tokenizer_->vocab_size()}) {
    const absl::StatusOr<std::string> text = tokenizer_->Decode({0, id}, true);
    EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(text.status().message().find(std::to_string(id)), absl::string_view::npos) << text.status();
    EXPECT_NE(text.status().message().find(std::to_string(tokenizer_->vocab_size() - 1)), absl::string_view::npos);
    EXPECT_EQ(tokenizer_->IdToPiece(id).status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(Stream({}, {id}, true), "");
  }
}

INSTANTIATE_TEST_SUITE_P(Families, TokenizerGoldenTest, testing::ValuesIn(kGoldenTokenizers),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace lorad
