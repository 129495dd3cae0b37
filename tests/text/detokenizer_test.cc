#include "model/text/detokenizer.h"

#include <gtest/gtest.h>

#include <random>

#include "model/text/utf8.h"
#include "tests/text/golden.h"

namespace lorad {
namespace {

std::shared_ptr<const Tokenizer> Load(const std::string& name) {
  absl::StatusOr<std::shared_ptr<const Tokenizer>> tokenizer = Tokenizer::Load(GoldenTokenizerDir(name));
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *tokenizer;
}

// The ids of bytes in the spelling of llama2 and sentencepiece.
std::vector<int32_t> ByteIds(const Tokenizer& tokenizer, std::string_view bytes) {
  std::vector<int32_t> ids;
  for (const char byte : bytes) {
    char piece[8];
    std::snprintf(piece, sizeof piece, "<0x%02X>", static_cast<unsigned char>(byte));
    ids.push_back(tokenizer.PieceToId(piece).value());
  }
  return ids;
}

TEST(DetokenizerTest, KeepsTheSpaceOfAWordBehindThePrompt) {
  const auto tokenizer = Load("llama2");
  const std::vector<int32_t> the = *tokenizer->Encode("the", false);
  const std::vector<int32_t> prompt = *tokenizer->Encode("and", true);
  Detokenizer behind(tokenizer, prompt, true);
  std::string text;
  for (const int32_t id : the) text += behind.Append(id);
  EXPECT_EQ(text + behind.Finish(), " the");
  // <s> shows nothing, so the text begins behind it.
  Detokenizer first(tokenizer, {1}, true);
  text.clear();
  for (const int32_t id : the) text += first.Append(id);
  EXPECT_EQ(text + first.Finish(), "the");
}

TEST(DetokenizerTest, HoldsACharacterBackUntilItsBytesAreThere) {
  const auto tokenizer = Load("llama3");
  const std::vector<int32_t> ids = *tokenizer->Encode("\U0001F9BE", false);
  ASSERT_GT(ids.size(), 1u);
  Detokenizer detokenizer(tokenizer, {}, true);
  for (size_t i = 0; i + 1 < ids.size(); ++i) EXPECT_EQ(detokenizer.Append(ids[i]), "");
  EXPECT_EQ(detokenizer.Append(ids.back()), "\U0001F9BE");
  EXPECT_EQ(detokenizer.Finish(), "");
}

TEST(DetokenizerTest, FinishShowsAnIncompleteCharacterAsReplacement) {
  for (const char* name : {"llama2", "llama3", "sentencepiece_bpe"}) {
    const auto tokenizer = Load(name);
    std::vector<int32_t> ids = *tokenizer->Encode("a\U0001F9BE", false);
    ids.pop_back();
    Detokenizer detokenizer(tokenizer, {}, true);
    std::string text;
    for (const int32_t id : ids) text += detokenizer.Append(id);
    EXPECT_EQ(text, "a") << name;
    text += detokenizer.Finish();
    EXPECT_EQ(text, *tokenizer->Decode(ids, true)) << name;
    EXPECT_NE(text.find(kReplacementCharacter), std::string::npos);
  }
}

TEST(DetokenizerTest, CompletesACharacterThatThePromptBegan) {
  for (const char* name : {"llama2", "llama3", "sentencepiece_bpe"}) {
    const auto tokenizer = Load(name);
    const std::vector<int32_t> ids = *tokenizer->Encode("ab \U0001F9BE", false);
    const absl::Span<const int32_t> all(ids);
    Detokenizer detokenizer(tokenizer, all.subspan(0, all.size() - 1), true);
    const std::string delta = detokenizer.Append(all.back());
    EXPECT_EQ(delta + detokenizer.Finish(), "\U0001F9BE") << name;
  }
}

// A script that the vocabulary does not have is spelled in bytes, perhaps without a space for a long time.
TEST(DetokenizerTest, ALongRunOfBytesStreams) {
  const auto tokenizer = Load("llama2");
  std::string script;
  for (int i = 0; i < 100; ++i) script += "\u1780";
  const std::vector<int32_t> ids = ByteIds(*tokenizer, script);
  ASSERT_EQ(ids.size(), 300u);
  Detokenizer detokenizer(tokenizer, *tokenizer->Encode("and", true), true);
  std::string text;
  for (size_t i = 0; i < ids.size(); ++i) {
    text += detokenizer.Append(ids[i]);
    EXPECT_LE(i + 1 - text.size(), 20u);
  }
  EXPECT_EQ(text + detokenizer.Finish(), script);
}

TEST(DetokenizerTest, ALongRunOfBytesAtTheBeginningOfATextIsWhole) {
  const auto tokenizer = Load("llama2");
  std::vector<int32_t> ids = ByteIds(*tokenizer, "\u1780\u1780\u1780\u1780\u1780\u1780\u1780\u1780\u1780");
  const std::vector<int32_t> the = *tokenizer->Encode("the", false);
  ids.insert(ids.end(), the.begin(), the.end());
  Detokenizer detokenizer(tokenizer, {}, true);
  std::string text;
  for (const int32_t id : ids) text += detokenizer.Append(id);
  EXPECT_EQ(text + detokenizer.Finish(), *tokenizer->Decode(ids, true));
}

// Seeded ids of every kind, long enough for the window to move many times.
TEST(DetokenizerTest, LongStreamsOfAnyIdsAreTheirDecode) {
  for (const char* name : kGoldenTokenizers) {
    const auto tokenizer = Load(name);
    for (uint32_t seed = 0; seed < 12; ++seed) {
      std::mt19937 random(seed);
      std::vector<int32_t> ids(400);
      for (int32_t& id : ids) {
        // The byte pieces are among the first ids; runs of them are frequent, those over the limit practically not.
        const uint32_t limit = random() % 4 == 0 ? 270 : static_cast<uint32_t>(tokenizer->vocab_size());
        id = static_cast<int32_t>(random() % limit);
      }
      for (const bool skip : {true, false}) {
        Detokenizer detokenizer(tokenizer, {}, skip);
        std::string text;
        for (const int32_t id : ids) {
          const std::string delta = detokenizer.Append(id);
          EXPECT_EQ(FindInvalidUtf8(delta), std::nullopt);
          text += delta;
        }
        EXPECT_EQ(text + detokenizer.Finish(), *tokenizer->Decode(ids, skip)) << name << " seed " << seed;
      }
    }
  }
}

// Nothing but broken bytes: they come out, bounded, instead of being held back to the end.
TEST(DetokenizerTest, BrokenBytesOfAByteLevelVocabularyStream) {
  for (const char* name : {"llama3", "opt", "sentencepiece_bpe", "sentencepiece_unigram"}) {
    const auto tokenizer = Load(name);
    std::vector<int32_t> bytes;  // Those that are no text alone.
    for (int32_t id = 0; id < tokenizer->vocab_size(); ++id) {
      if (*tokenizer->Decode({id}, true) == kReplacementCharacter) bytes.push_back(id);
    }
    ASSERT_GE(bytes.size(), 100u);
    std::mt19937 random(7);
    std::vector<int32_t> ids(3000);
    for (int32_t& id : ids) id = bytes[random() % bytes.size()];
    Detokenizer detokenizer(tokenizer, {}, true);
    std::string text;
    size_t silent = 0;
    size_t longest_silence = 0;
    for (const int32_t id : ids) {
      const std::string delta = detokenizer.Append(id);
      silent = delta.empty() ? silent + 1 : 0;
      longest_silence = std::max(longest_silence, silent);
      text += delta;
    }
    EXPECT_EQ(text + detokenizer.Finish(), *tokenizer->Decode(ids, true)) << name;
    EXPECT_LE(longest_silence, 24u) << name;
  }
}

TEST(DetokenizerTest, IdsWithoutATextAreSilent) {
  const auto tokenizer = Load("qwen2");
  Detokenizer detokenizer(tokenizer, {}, true);
  EXPECT_EQ(detokenizer.Append(-1), "");
  EXPECT_EQ(detokenizer.Append(tokenizer->vocab_size() + 100), "");
  EXPECT_EQ(detokenizer.Finish(), "");
}

TEST(Utf8Test, FindsTheFirstInvalidByte) {
  EXPECT_EQ(FindInvalidUtf8(""), std::nullopt);
  EXPECT_EQ(FindInvalidUtf8(std::string_view("a\0b", 3)), std::nullopt);
  EXPECT_EQ(FindInvalidUtf8(
                "\x7F\xC2\x80\xDF\xBF\xE0\xA0\x80\xED\x9F\xBF\xEE\x80\x80\xEF\xBF\xBF\xF0\x90\x80\x80\xF4\x8F\xBF\xBF"),
            std::nullopt);
  for (const char* bytes :
       {"\x80", "\xBF", "\xC0\x80", "\xC1\xBF", "\xC2", "\xC2(", "\xE0\x9F\xBF", "\xE1\x80", "\xE1\x80(",
        "\xED\xA0\x80", "\xF0\x8F\xBF\xBF", "\xF0\x90\x80", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF"}) {
    EXPECT_EQ(FindInvalidUtf8(std::string("ab") + bytes), 2u) << testing::PrintToString(bytes);
  }
}

}  // namespace
}  // namespace lorad
