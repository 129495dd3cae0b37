#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include <nlohmann/json.hpp>

#include "model/text/tokenizer.h"
#include "tests/text/golden.h"

namespace lorad {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// A folder of its own for every test; files come from the golden tokenizers or are written by hand.
class TokenizerFilesTest : public testing::Test {
 protected:
  void SetUp() override {
    const testing::TestInfo* info = testing::UnitTest::GetInstance()->current_test_info();
    dir_ = testing::TempDir() + "/" + info->name() + std::to_string(::getpid());
    std::filesystem::remove_all(dir_);
    std::filesystem::create_directories(dir_);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  static std::string Golden(const std::string& path) {
    std::ifstream file(GoldenTokenizerDir(path), std::ios::binary);
    std::stringstream content;
    content << file.rdbuf();
    return content.str();
  }

  void Write(const std::string& name, const std::string& content) {
    std::ofstream(dir_ + "/" + name, std::ios::binary) << content;
  }

  absl::StatusOr<std::shared_ptr<const Tokenizer>> Load() { return Tokenizer::Load(dir_); }

  void ExpectDataLoss(const std::string& named) {
    const absl::Status status = Load().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(named));
  }

  std::string dir_;
};

TEST_F(TokenizerFilesTest, AFolderWithoutATokenizerIsNamed) {
  Write("vocab.json", "{}");  // merges.txt is missing.
  const absl::Status status = Load().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr(dir_));
  EXPECT_THAT(std::string(status.message()), HasSubstr("tokenizer.json"));
  EXPECT_EQ(Tokenizer::Load(dir_ + "/no such folder").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(TokenizerFilesTest, ATruncatedTokenizerJsonIsDataLoss) {
  const std::string whole = Golden("llama3/tokenizer.json");
  ASSERT_GT(whole.size(), 10000u);
  for (size_t size = 0; size + 2 < whole.size(); size += whole.size() / 23) {
    Write("tokenizer.json", whole.substr(0, size));
    ExpectDataLoss("tokenizer.json");
  }
}

TEST_F(TokenizerFilesTest, WrongSectionsAreDataLoss) {
  for (const char* json :
       {"{}", "[]", "null", "\"x\"", "{\"version\":\"1.0\",\"model\":{\"type\":\"Nothing\"}}",
        "{\"version\":\"1.0\",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}",
        "{\"version\":\"1.0\",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a b\"]}}",
        "{\"version\":\"1.0\",\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]}}",
        "{\"version\":\"1.0\",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":4294967295},\"merges\":[]}}",
        "{\"version\":\"1.0\",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":99999999},\"merges\":[]}}"}) {
    SCOPED_TRACE(json);
    Write("tokenizer.json", json);
    ExpectDataLoss("tokenizer.json");
  }
  std::string nested = "{\"version\":";
  nested.append(100000, '[');
  Write("tokenizer.json", nested);
  ExpectDataLoss("tokenizer.json");
}

TEST_F(TokenizerFilesTest, ABrokenConfigIsNamedByItsKey) {
  Write("tokenizer.json", Golden("llama2/tokenizer.json"));
  for (const auto& [config, named] : std::vector<std::pair<std::string, std::string>>{
           {"{", "tokenizer_config.json"},
           {"[1]", "tokenizer_config.json"},
           {"{\"bos_token\": 5}", "bos_token"},
           {"{\"add_bos_token\": \"yes\"}", "add_bos_token"},
           {"{\"additional_special_tokens\": 7}", "additional_special_tokens"},
           {"{\"added_tokens_decoder\": {\"x\": {\"content\": \"<a>\"}}}", "added_tokens_decoder.x"},
           {"{\"added_tokens_decoder\": {\"-1\": {\"content\": \"<a>\"}}}", "added_tokens_decoder.-1"},
           {"{\"added_tokens_decoder\": {\"7\": \"\"}}", "added_tokens_decoder.7"}}) {
    SCOPED_TRACE(config);
    Write("tokenizer_config.json", config);
    ExpectDataLoss(named);
  }
}

TEST_F(TokenizerFilesTest, AnAddedTokenOutOfPlaceIsRefused) {
  Write("tokenizer.json", Golden("llama2/tokenizer.json"));
  Write("tokenizer_config.json", "{\"added_tokens_decoder\": {\"2000\": {\"content\": \"<new>\"}}}");
  ExpectDataLoss("<new>");
  Write("tokenizer_config.json", "{\"added_tokens_decoder\": {\"1400\": {\"content\": \"<new>\", \"special\": true}}}");
  const auto tokenizer = Load();
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocab_size(), 1401);
  EXPECT_EQ((*tokenizer)->PieceToId("<new>"), 1400);
  EXPECT_TRUE((*tokenizer)->is_special(1400));
  EXPECT_THAT(*(*tokenizer)->Encode("<new>", false), ElementsAre(1400));
}

TEST_F(TokenizerFilesTest, NamesOfSpecialTokensGiveTheirIds) {
  Write("tokenizer.json", Golden("llama2/tokenizer.json"));
  auto tokenizer = Load();
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->bos_token_id(), std::nullopt);
  Write("special_tokens_map.json", "{\"bos_token\": \"<s>\", \"eos_token\": {\"content\": \"</s>\"}}");
  tokenizer = Load();
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->bos_token_id(), 1);
  EXPECT_EQ((*tokenizer)->eos_token_id(), 2);
}

TEST_F(TokenizerFilesTest, TruncationAndPaddingOfTokenizerJsonAreDropped) {
  nlohmann::json json = ReadGoldenJson("llama3/tokenizer.json");
  json["truncation"] = {{"direction", "Right"}, {"max_length", 4}, {"strategy", "LongestFirst"}, {"stride", 0}};
  json["padding"] = {{"strategy", {{"Fixed", 64}}},
                     {"direction", "Right"},
                     {"pad_to_multiple_of", nullptr},
                     {"pad_id", 0},
                     {"pad_type_id", 0},
                     {"pad_token", "!"}};
  Write("tokenizer.json", json.dump());
  const auto tokenizer = Load();
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->Encode("1 2 3 4 5 6 7 8", false)->size(), 15u);
}

TEST_F(TokenizerFilesTest, ABrokenSentencePieceModelIsDataLoss) {
  const std::string whole = Golden("sentencepiece_bpe/tokenizer.model");
  for (const std::string& bytes :
       {std::string(), std::string("no model"), whole.substr(0, whole.size() / 2), whole.substr(0, whole.size() - 1)}) {
    Write("tokenizer.model", bytes);
    ExpectDataLoss("tokenizer.model");
  }
}

TEST_F(TokenizerFilesTest, TokensAreAddedBehindASentencePieceModel) {
  Write("tokenizer.model", Golden("sentencepiece_bpe/tokenizer.model"));
  Write("added_tokens.json", "{\"<|end|>\": 1401, \"<|\": 1400}");
  Write("special_tokens_map.json", "{\"eos_token\": \"<|end|>\"}");
  const auto loaded = Load();
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const Tokenizer& tokenizer = **loaded;
  EXPECT_EQ(tokenizer.vocab_size(), 1402);
  EXPECT_EQ(tokenizer.eos_token_id(), 1401);
  EXPECT_EQ(tokenizer.bos_token_id(), 1);
  EXPECT_EQ(tokenizer.PieceToId("<|end|>"), 1401);
  EXPECT_EQ(*tokenizer.IdToPiece(1400), "<|");
  EXPECT_TRUE(tokenizer.is_special(1401));
  EXPECT_FALSE(tokenizer.is_special(1400));

  std::vector<int32_t> expected = *tokenizer.Encode("the", true);
  expected.push_back(1401);
  const std::vector<int32_t> adapter = *tokenizer.Encode("adapter", false);
  expected.insert(expected.end(), adapter.begin(), adapter.end());
  expected.push_back(1400);
  EXPECT_EQ(*tokenizer.Encode("the<|end|>adapter<|", true), expected);
  EXPECT_EQ(*tokenizer.Decode(expected, false), "the<|end|>adapter<|");
  EXPECT_EQ(*tokenizer.Decode(expected, true), "theadapter<|");
}

TEST_F(TokenizerFilesTest, ATokenAddedInsideASentencePieceModelIsRefused) {
  Write("tokenizer.model", Golden("sentencepiece_bpe/tokenizer.model"));
  for (const char* added : {"{\"<new>\": 7}", "{\"</s>\": 1400}", "{\"<new>\": 2000000000}"}) {
    SCOPED_TRACE(added);
    Write("added_tokens.json", added);
    ExpectDataLoss("added token in a wrong place");
  }
  Write("added_tokens.json", "{\"</s>\": 2}");
  EXPECT_TRUE(Load().ok()) << Load().status();
}

// Encode found it at every place of every text, and never came to the end of one.
TEST_F(TokenizerFilesTest, AnAddedTokenWithoutTextIsRefused) {
  Write("tokenizer.model", Golden("sentencepiece_bpe/tokenizer.model"));
  Write("added_tokens.json", "{\"\": 1400}");
  ExpectDataLoss("added_tokens.json");
}

// Each of them was looked for in all of the rest of the text, for every token found: hours for this one.
TEST_F(TokenizerFilesTest, ATextFullOfAddedTokensCostsNoMoreThanItsLength) {
  Write("tokenizer.model", Golden("sentencepiece_bpe/tokenizer.model"));
  nlohmann::json added;
  for (int i = 0; i < 100; ++i) added["<|absent " + std::to_string(i) + "|>"] = 1400 + i;
  added["<|"] = 1500;
  Write("added_tokens.json", added.dump());
  const auto tokenizer = Load();
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  constexpr size_t kTokens = 500'000;
  std::string text;
  for (size_t i = 0; i < kTokens; ++i) text += "<|";
  EXPECT_EQ(*(*tokenizer)->Encode(text, false), std::vector<int32_t>(kTokens, 1500));
}

TEST_F(TokenizerFilesTest, BosAndEosAreAddedAsTheConfigSays) {
  Write("tokenizer.model", Golden("sentencepiece_bpe/tokenizer.model"));
  const auto ids = [this](const std::string& config) {
    Write("tokenizer_config.json", config);
    return *(*Load())->Encode("", true);
  };
  EXPECT_THAT(ids("{}"), ElementsAre(1));
  EXPECT_THAT(ids("{\"add_bos_token\": false}"), ElementsAre());
  EXPECT_THAT(ids("{\"add_bos_token\": true, \"add_eos_token\": true}"), ElementsAre(1, 2));
  EXPECT_THAT(ids("{\"bos_token\": \"</s>\"}"), ElementsAre(2));
}

TEST_F(TokenizerFilesTest, BrokenBpeFilesAreDataLoss) {
  const std::string vocab = Golden("opt/vocab.json");
  const std::string merges = Golden("opt/merges.txt");
  Write("vocab.json", vocab.substr(0, vocab.size() / 2));
  Write("merges.txt", merges);
  ExpectDataLoss("vocab.json");
  Write("vocab.json", vocab);
  Write("merges.txt", merges + "one two three\n");
  ExpectDataLoss("merges.txt");
  Write("merges.txt", merges + "no-such-piece neither\n");
  ExpectDataLoss("no-such-piece");
  Write("merges.txt", merges);
  Write("tokenizer_config.json", "{\"add_bos_token\": true}");
  ExpectDataLoss("add_bos_token");
}

TEST_F(TokenizerFilesTest, WindowsLineEndsInMergesAreRead) {
  Write("vocab.json", Golden("opt/vocab.json"));
  Write("tokenizer_config.json", Golden("opt/tokenizer_config.json"));
  std::string merges;
  for (const char c : Golden("opt/merges.txt")) merges += c == '\n' ? std::string("\r\n") : std::string(1, c);
  Write("merges.txt", merges);
  const auto tokenizer = Load();
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const TokenizerGolden golden = ReadTokenizerGolden("opt");
  for (const StringCase& c : golden.strings) EXPECT_EQ(*(*tokenizer)->Encode(c.text, true), c.whole);
}

TEST_F(TokenizerFilesTest, Qwen2IsReadFromBpeFilesToo) {
  const nlohmann::json model = ReadGoldenJson("qwen2/tokenizer.json")["model"];
  std::string merges;
  for (const nlohmann::json& pair : model["merges"]) {
    merges += pair[0].get<std::string>() + " " + pair[1].get<std::string>() + "\n";
  }
  Write("vocab.json", model["vocab"].dump());
  Write("merges.txt", merges);
  Write("tokenizer_config.json", Golden("qwen2/tokenizer_config.json"));
  const auto tokenizer = Load();
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const TokenizerGolden golden = ReadTokenizerGolden("qwen2");
  for (const StringCase& c : golden.strings) {
    EXPECT_EQ(*(*tokenizer)->Encode(c.text, true), c.whole) << c.text;
    EXPECT_EQ(*(*tokenizer)->Decode(c.whole, false), c.all) << c.text;
  }
}

TEST_F(TokenizerFilesTest, BpeFilesOfAnotherClassAreRefusedByName) {
  Write("vocab.json", Golden("opt/vocab.json"));
  Write("merges.txt", Golden("opt/merges.txt"));
  Write("tokenizer_config.json", "{\"tokenizer_class\": \"CLIPTokenizer\"}");
  const absl::Status status = Load().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(status.message()), HasSubstr("CLIPTokenizer"));
}

TEST_F(TokenizerFilesTest, TokenizerJsonComesBeforeTokenizerModel) {
  Write("tokenizer.json", Golden("llama3/tokenizer.json"));
  Write("tokenizer.model", "not read");
  EXPECT_TRUE(Load().ok()) << Load().status();
}

}  // namespace
}  // namespace lorad
