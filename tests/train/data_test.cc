#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "adapters/train/example_reader.h"
#include "adapters/train/example_sets.h"
#include "adapters/train/example_store.h"
#include "adapters/train/lines.h"
#include "adapters/train/random_order.h"
#include "adapters/train/schedule.h"
#include "adapters/train/validate.h"
#include "tests/support/source_dir.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr int64_t kVocab = 100;

ExampleReader TokensReader(int64_t max_length = 64) {
  return ExampleReader({.format = ExampleFormat::kTokens, .vocab_size = kVocab, .max_length_tokens = max_length});
}

std::string Error(std::string_view line, int64_t max_length = 64) {
  return std::string(TokensReader(max_length).Read(line).status().message());
}

TEST(ExampleReaderTest, TokensKeepTheirLabels) {
  const auto read = TokensReader().Read(R"({"input_ids": [1, 2, 3], "labels": [-100, 2, 3]})");
  ASSERT_THAT(read, IsOk());
  EXPECT_THAT(read->example.token_ids, ElementsAre(1, 2, 3));
  EXPECT_THAT(read->example.labels, ElementsAre(-100, 2, 3));
  EXPECT_EQ(TrainedTokens(read->example), 2);
}

TEST(ExampleReaderTest, WithoutLabelsEveryTokenButTheFirstIsLearnt) {
  const auto read = TokensReader().Read(R"({"input_ids": [1, 2, 3]})");
  ASSERT_THAT(read, IsOk());
  EXPECT_EQ(TrainedTokens(read->example), 2);
}

TEST(ExampleReaderTest, SaysWhatIsWrong) {
  EXPECT_THAT(Error("[1, 2]"), HasSubstr("not a JSON object"));
  EXPECT_THAT(Error("{\"input_ids\": [1, 2"), HasSubstr("not a JSON object"));
  EXPECT_THAT(Error(R"({"ids": [1]})"), HasSubstr("input_ids: missing"));
  EXPECT_THAT(Error(R"({"input_ids": [1, 100]})"), HasSubstr("input_ids[1]: 100; limit: 0..99"));
  EXPECT_THAT(Error(R"({"input_ids": [1, 1e30]})"), HasSubstr("input_ids[1]: 1e+30"));
  EXPECT_THAT(Error(R"({"input_ids": [1, -100]})"), HasSubstr("input_ids[1]: -100"));
  EXPECT_THAT(Error(R"({"input_ids": [1, 2], "labels": [1]})"), HasSubstr("labels: 1; limit: 2"));
  EXPECT_THAT(Error(R"({"input_ids": [1, 2], "labels": [1, -100]})"), HasSubstr("none of them learnt"));
  EXPECT_THAT(Error(R"({"input_ids": [1, 2, 3], "labels": [-100, -100, 3]})", 2), HasSubstr("max_length_tokens 2"));
}

TEST(ExampleReaderTest, CutsWhatIsTooLongAndSaysHowLongItWas) {
  const auto read = TokensReader(2).Read(R"({"input_ids": [1, 2, 3]})");
  ASSERT_THAT(read, IsOk());
  EXPECT_THAT(read->example.token_ids, ElementsAre(1, 2));
  EXPECT_EQ(read->full_tokens, 3);
}

TEST(ExampleReaderTest, FormatsAreFoundByTheirKeys) {
  EXPECT_EQ(*DetectExampleFormat(R"({"messages": []})"), ExampleFormat::kChat);
  EXPECT_EQ(*DetectExampleFormat(R"({"prompt": "", "completion": ""})"), ExampleFormat::kCompletion);
  EXPECT_EQ(*DetectExampleFormat(R"({"instruction": "", "output": ""})"), ExampleFormat::kAlpaca);
  EXPECT_EQ(*DetectExampleFormat(R"({"text": ""})"), ExampleFormat::kText);
  EXPECT_EQ(*DetectExampleFormat(R"({"input_ids": []})"), ExampleFormat::kTokens);
  EXPECT_FALSE(DetectExampleFormat(R"({"question": ""})").ok());
}

// The demo's tokenizer: a real tokenizer.json.
class TextExampleTest : public testing::Test {
 protected:
  void SetUp() override {
    auto loaded = Tokenizer::Load(absl::StrCat(SourceDir(), "/examples/demo-base"));
    ASSERT_THAT(loaded, IsOk());
    tokenizer_ = *loaded;
    eos_ = *tokenizer_->eos_token_id();
  }
  absl::StatusOr<ReadExampleResult> Read(ExampleFormat format, std::string_view line, bool train_on_inputs = false) {
    return ExampleReader({.format = format,
                          .tokenizer = tokenizer_,
                          .eos_token_id = eos_,
                          .vocab_size = tokenizer_->vocab_size(),
                          .max_length_tokens = 256,
                          .train_on_inputs = train_on_inputs})
        .Read(line);
  }
  std::shared_ptr<const Tokenizer> tokenizer_;
  int32_t eos_ = -1;
};

TEST_F(TextExampleTest, ACompletionIsLearntWithItsEndAndThePromptIsWhatGenerateSees) {
  const auto read = Read(ExampleFormat::kCompletion, R"({"prompt": "copy: red fox ->", "completion": " red fox"})");
  ASSERT_THAT(read, IsOk());
  const std::vector<int32_t> prompt = *tokenizer_->Encode("copy: red fox ->", /*add_special_tokens=*/true);
  const Example& example = read->example;
  ASSERT_GT(example.token_ids.size(), prompt.size());
  for (size_t i = 0; i < example.token_ids.size(); ++i) {
    if (i < prompt.size()) {
      EXPECT_EQ(example.token_ids[i], prompt[i]);
    }
    EXPECT_EQ(example.labels[i], i < prompt.size() ? kNotTrained : example.token_ids[i]);
  }
  EXPECT_EQ(example.labels.back(), eos_);
}

TEST_F(TextExampleTest, PromptsAreLearntWhereThatIsAsked) {
  const auto read = Read(ExampleFormat::kCompletion, R"({"prompt": "red", "completion": " fox"})", true);
  ASSERT_THAT(read, IsOk());
  EXPECT_EQ(read->example.labels, read->example.token_ids);
}

TEST_F(TextExampleTest, PlainTextIsLearntWholeAndEnds) {
  const auto read = Read(ExampleFormat::kText, R"({"text": "red fox sun"})");
  ASSERT_THAT(read, IsOk());
  EXPECT_EQ(read->example.labels, read->example.token_ids);
  EXPECT_EQ(read->example.token_ids.back(), eos_);
}

TEST_F(TextExampleTest, AlpacaLearnsTheOutput) {
  const auto read = Read(ExampleFormat::kAlpaca, R"({"instruction": "copy", "input": "red", "output": "red"})");
  ASSERT_THAT(read, IsOk());
  EXPECT_EQ(read->example.labels.front(), kNotTrained);
  EXPECT_EQ(read->example.labels.back(), eos_);
}

TEST_F(TextExampleTest, MissingAndWrongKeysAreNamed) {
  EXPECT_THAT(std::string(Read(ExampleFormat::kCompletion, R"({"prompt": "a"})").status().message()),
              HasSubstr("completion: missing"));
  EXPECT_THAT(std::string(Read(ExampleFormat::kText, R"({"text": 1})").status().message()),
              HasSubstr("text: not a string"));
}

ForEachLineFn Lines(std::vector<std::string> lines) {
  return [lines](const LineVisitor& visit) { return ForEachLine(lines, visit); };
}

TEST(ReadDatasetTest, TellsOfEveryWrongLineByItsNumber) {
  const auto keep = [](const Example&) { return absl::OkStatus(); };
  const auto summary = ReadDataset(Lines({R"({"input_ids": [1, 2]})", "nonsense", "", R"({"input_ids": [500, 1]})"}),
                                   TokensReader(), keep);
  EXPECT_TRUE(absl::IsInvalidArgument(summary.status()));
  const std::string message(summary.status().message());
  EXPECT_THAT(message, HasSubstr("wrong lines: 2"));
  EXPECT_THAT(message, HasSubstr("line 2: not a JSON object"));
  EXPECT_THAT(message, HasSubstr("line 4: input_ids[0]: 500"));
}

TEST(ReadDatasetTest, CountsWhatItRead) {
  int64_t kept = 0;
  const auto summary = ReadDataset(Lines({R"({"input_ids": [1, 2]})", R"({"input_ids": [1, 2, 3, 4, 5]})"}),
                                   TokensReader(4), [&](const Example&) {
                                     ++kept;
                                     return absl::OkStatus();
                                   });
  ASSERT_THAT(summary, IsOk());
  EXPECT_EQ(summary->examples, 2);
  EXPECT_EQ(kept, 2);
  EXPECT_EQ(summary->tokens, 6);
  EXPECT_EQ(summary->trained_tokens, 4);
  EXPECT_EQ(summary->truncated, 1);
  EXPECT_EQ(summary->longest_tokens, 5);
}

TEST(ReadDatasetTest, NothingAtAllIsRefused) {
  const auto summary = ReadDataset(Lines({"", " "}), TokensReader(), [](const Example&) { return absl::OkStatus(); });
  EXPECT_TRUE(absl::IsInvalidArgument(summary.status()));
}

TEST(LinesTest, AFileIsReadInPiecesWhateverItsLineEnds) {
  const std::string path = testing::TempDir() + "/lines.jsonl";
  const std::string long_line(3'000'000, 'x');  // over several pieces
  std::ofstream(path, std::ios::binary) << "\xEF\xBB\xBF"
                                           "first\r\n\n"
                                        << long_line << "\nlast";
  std::vector<std::pair<int64_t, size_t>> seen;
  ASSERT_THAT(ForEachLine(*LocalFiles(), path,
                          [&](int64_t number, std::string_view line) {
                            seen.emplace_back(number, line.size());
                            return absl::OkStatus();
                          }),
              IsOk());
  EXPECT_THAT(seen, ElementsAre(std::pair<int64_t, size_t>(1, 6), std::pair<int64_t, size_t>(3, long_line.size()),
                                std::pair<int64_t, size_t>(4, 4)));
}

TEST(LinesTest, ALineWithoutEndIsRefused) {
  const std::string path = testing::TempDir() + "/endless.jsonl";
  std::ofstream(path, std::ios::binary) << std::string(kMaxLineBytes + 1, 'x');
  const absl::Status status =
      ForEachLine(*LocalFiles(), path, [](int64_t, std::string_view) { return absl::OkStatus(); });
  EXPECT_TRUE(absl::IsDataLoss(status));
}

TEST(ExampleStoreTest, GivesBackWhatWasWritten) {
  const std::string prefix = testing::TempDir() + "/store";
  auto writer = ExampleStoreWriter::Create(prefix);
  ASSERT_THAT(writer, IsOk());
  ASSERT_THAT((*writer)->Append({{1, 2, 3}, {-100, 2, 3}}), IsOk());
  ASSERT_THAT((*writer)->Append({{9}, {9}}), IsOk());
  const auto digest = (*writer)->Finish();
  ASSERT_THAT(digest, IsOk());
  EXPECT_EQ(digest->size(), 64u);
  const auto store = ExampleStore::Open(prefix);
  ASSERT_THAT(store, IsOk());
  ASSERT_EQ((*store)->count(), 2);
  EXPECT_THAT((*store)->Get(1)->token_ids, ElementsAre(9));
  EXPECT_THAT((*store)->Get(0)->labels, ElementsAre(-100, 2, 3));
}

// A store of examples of 1, 2, … tokens, each beginning with its number.
std::string StoreOf(const std::string& name, int32_t count) {
  const std::string prefix = testing::TempDir() + "/" + name;
  std::remove((prefix + "-eval.bin").c_str());
  auto writer = ExampleStoreWriter::Create(prefix);
  for (int32_t i = 0; i < count; ++i) {
    const std::vector<int32_t> ids(static_cast<size_t>(i) + 1, i);
    EXPECT_THAT((*writer)->Append({ids, ids}), IsOk());
  }
  EXPECT_THAT((*writer)->Finish(), IsOk());
  return prefix;
}

std::vector<int32_t> Numbers(const ExampleSource& source) {
  std::vector<int32_t> numbers;
  for (int64_t i = 0; i < source.count; ++i) numbers.push_back(source.get(i)->token_ids[0]);
  return numbers;
}

TEST(ExampleSetsTest, WhatIsKeptFromTrainingIsDrawnOnce) {
  const std::string prefix = StoreOf("drawn", 10);
  const ExampleSetOptions options = {.eval_fraction = 0.25, .seed = 4};
  const auto sets = OpenExampleSets(prefix, options), again = OpenExampleSets(prefix, options);
  ASSERT_THAT(sets, IsOk());
  EXPECT_EQ(sets->eval.count, 3);
  std::vector<int32_t> all = Numbers(sets->train), kept = Numbers(sets->eval);
  EXPECT_EQ(kept, Numbers(again->eval));
  EXPECT_THAT(kept, testing::Not(ElementsAre(7, 8, 9)));
  all.insert(all.end(), kept.begin(), kept.end());
  EXPECT_THAT(all, testing::UnorderedElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9));
}

TEST(ExampleSetsTest, InOrderTheEndOfTheFileIsKept) {
  const auto sets = OpenExampleSets(StoreOf("ordered", 10), {.eval_fraction = 0.25, .shuffle = false});
  ASSERT_THAT(sets, IsOk());
  EXPECT_THAT(Numbers(sets->eval), ElementsAre(7, 8, 9));
  EXPECT_THAT(Numbers(sets->train), ElementsAre(0, 1, 2, 3, 4, 5, 6));
}

TEST(ExampleSetsTest, SomethingHasToBeLeftToTrainOn) {
  const auto sets = OpenExampleSets(StoreOf("one", 1), {.eval_fraction = 0.5});
  EXPECT_TRUE(absl::IsInvalidArgument(sets.status()));
  EXPECT_THAT(std::string(sets.status().message()), HasSubstr("dataset.eval_fraction"));
}

TEST(ExampleSetsTest, AFileToEvaluateOnIsAStoreOfItsOwn) {
  const std::string prefix = StoreOf("two", 4);
  StoreOf("two-eval", 2);
  const auto sets = OpenExampleSets(prefix, {});
  ASSERT_THAT(sets, IsOk());
  EXPECT_EQ(sets->train.count, 4);
  EXPECT_EQ(sets->eval.count, 2);
}

TEST(ExampleSetsTest, TheLargestEntriesInARowAreCountedOnceMoreWhereAnEpochEnds) {
  const auto sets = OpenExampleSets(StoreOf("largest", 6), {.shuffle = false});  // 1 to 6 tokens
  ASSERT_TRUE(sets.ok()) << sets.status();
  const auto tokens = [&](int64_t count) { return LargestEntriesOf(sets->train, count).value().tokens; };
  EXPECT_EQ(tokens(1), 6);
  EXPECT_EQ(tokens(3), 6 + 6 + 5);
  EXPECT_EQ(tokens(8), 3 * 6 + 3 * 5 + 2 * 4);
  EXPECT_EQ(LargestEntriesOf(sets->train, 1).value().longest_tokens, 6);
  EXPECT_EQ(LargestEntriesOf(sets->eval, 4).value().tokens, 0);
}

TEST(ExampleSetsTest, EntriesArePackedUpToTheirLength) {
  const auto sets = OpenExampleSets(StoreOf("packed", 6), {.pack_tokens = 7, .shuffle = false});  // 1 to 6 tokens
  ASSERT_THAT(sets, IsOk());
  EXPECT_THAT(sets->train.pack_starts, ElementsAre(0, 3, 4, 5, 6));
  EXPECT_EQ(sets->train.entries(), 4);
}

TEST(RandomOrderTest, IsAPermutationThatDependsOnTheSeed) {
  for (const uint64_t count : {1u, 2u, 5u, 64u, 1000u}) {
    const RandomOrder order(count, 7), other(count, 8);
    std::vector<bool> seen(count);
    bool differs = false;
    for (uint64_t i = 0; i < count; ++i) {
      const uint64_t place = order.At(i);
      ASSERT_LT(place, count);
      EXPECT_FALSE(seen[place]);
      seen[place] = true;
      differs = differs || place != other.At(i);
    }
    if (count > 5) {
      EXPECT_TRUE(differs) << count;
    }
  }
}

}  // namespace
}  // namespace lorad
