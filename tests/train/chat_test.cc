#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "adapters/train/example_reader.h"
#include "model/text/chat_template.h"
#include "model/text/tokenizer.h"
#include "tests/support/source_dir.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

using nlohmann::ordered_json;
using testing::HasSubstr;

std::string GoldenDir() { return absl::StrCat(SourceDir(), "/tests/golden"); }
std::string TokenizerDir() { return GoldenDir() + "/tokenizers/qwen2"; }

ordered_json ReadJson(const std::string& path) {
  std::ifstream file(path);
  return ordered_json::parse(file);
}

// A model folder with this template and the golden tokenizer's special tokens.
std::shared_ptr<const ChatTemplate> TemplateOf(const std::string& source) {
  const std::string dir = testing::TempDir() + "/chat_template";
  std::filesystem::create_directories(dir);
  std::filesystem::copy_file(TokenizerDir() + "/tokenizer_config.json", dir + "/tokenizer_config.json",
                             std::filesystem::copy_options::overwrite_existing);
  std::ofstream(dir + "/chat_template.jinja") << source;
  const auto loaded = ChatTemplate::Load(dir);
  EXPECT_THAT(loaded, IsOk());
  return *loaded;
}

// Cases of tests/golden/chat, which transformers rendered.
class ChatTest : public testing::Test {
 protected:
  void SetUp() override {
    auto tokenizer = Tokenizer::Load(TokenizerDir());
    ASSERT_THAT(tokenizer, IsOk());
    tokenizer_ = *tokenizer;
    templates_ = ReadJson(GoldenDir() + "/chat/templates.json");
    cases_ = ReadJson(GoldenDir() + "/chat/cases.json");
    ASSERT_GE(cases_.size(), 8u);
  }
  std::shared_ptr<const ChatTemplate> Template(const std::string& name) const {
    return TemplateOf(templates_[name].get<std::string>());
  }
  absl::StatusOr<Example> Read(const std::string& name, const ordered_json& line) const {
    return ReadWith(Template(name), line);
  }
  absl::StatusOr<Example> ReadWith(std::shared_ptr<const ChatTemplate> chat, const ordered_json& line) const {
    const ExampleReader reader({.format = ExampleFormat::kChat,
                                .tokenizer = tokenizer_,
                                .chat_template = std::move(chat),
                                .eos_token_id = *tokenizer_->eos_token_id(),
                                .vocab_size = tokenizer_->vocab_size(),
                                .max_length_tokens = 1024});
    auto read = reader.Read(line.dump());
    if (!read.ok()) return read.status();
    return read->example;
  }
  // What is learnt, as text; "|" between what does not follow on each other.
  std::string Learnt(const Example& example) const {
    std::string text;
    std::vector<int32_t> run;
    for (size_t i = 0; i <= example.labels.size(); ++i) {
      if (i < example.labels.size() && example.labels[i] != kNotTrained) {
        EXPECT_EQ(example.labels[i], example.token_ids[i]);
        run.push_back(example.labels[i]);
      } else if (!run.empty()) {
        absl::StrAppend(&text, *tokenizer_->Decode(run, /*skip_special_tokens=*/false), "|");
        run.clear();
      }
    }
    return text;
  }

  std::shared_ptr<const Tokenizer> tokenizer_;
  ordered_json templates_, cases_;
};

ordered_json LineOf(const ordered_json& chat) {
  ordered_json line = {{"messages", chat["messages"]}};
  if (!chat["tools"].is_null()) line["tools"] = chat["tools"];
  return line;
}

TEST_F(ChatTest, RendersAsTransformers) {
  for (const ordered_json& golden : cases_) {
    const std::string name = golden["template"];
    const auto rendered = Template(name)->Render(golden["messages"].dump(), golden["tools"].dump(),
                                                 /*add_generation_prompt=*/false);
    if (golden.contains("error")) {
      ASSERT_FALSE(rendered.ok()) << name;
      EXPECT_THAT(std::string(rendered.status().message()), HasSubstr(golden["error"].get<std::string>()));
    } else {
      ASSERT_THAT(rendered, IsOk()) << name;
      EXPECT_EQ(rendered->text, golden["text"].get<std::string>()) << name;
    }
  }
}

TEST_F(ChatTest, LearnsWhatTransformersMarksAndTheTokenThatEndsTheTurn) {
  int marked = 0;
  for (const ordered_json& golden : cases_) {
    if (!golden.contains("mask")) continue;
    ++marked;
    const auto example = Read(golden["template"], LineOf(golden));
    ASSERT_THAT(example, IsOk()) << golden["template"];
    const auto ids = golden["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(example->token_ids, ids) << golden["template"];
    std::vector<int> mask = golden["mask"].get<std::vector<int>>(), learnt;
    for (size_t i = 1; i < mask.size(); ++i) {
      const bool behind = mask[i - 1] == 1 && mask[i] == 0 && !tokenizer_->is_special(ids[i - 1]);
      if (behind && tokenizer_->is_special(ids[i])) mask[i] = 2;
    }
    for (const int32_t label : example->labels) learnt.push_back(label != kNotTrained);
    for (int& mark : mask) mark = mark != 0;
    EXPECT_EQ(learnt, mask) << golden["template"];
  }
  EXPECT_GE(marked, 4);
}

TEST_F(ChatTest, WithoutMarksTheAssistantsPartsAreFoundByRenderingWithAndWithoutThem) {
  for (const ordered_json& golden : cases_) {
    if (golden["template"] != "unmarked") continue;
    const auto example = Read("unmarked", LineOf(golden));
    ASSERT_THAT(example, IsOk());
    EXPECT_EQ(example->token_ids, golden["ids"].get<std::vector<int32_t>>());
    EXPECT_EQ(Learnt(*example), " green & \"blue\" <|im_end|>|ja\nnein<|im_end|>|");
  }
}

TEST_F(ChatTest, AMessageOfWeightZeroIsNotLearnt) {
  ordered_json line = LineOf(cases_[0]);
  line["messages"][2]["weight"] = 0;
  for (const char* name : {"chatml", "unmarked"}) {
    const auto example = Read(name, line);
    ASSERT_THAT(example, IsOk());
    EXPECT_EQ(Learnt(*example), "ja\nnein<|im_end|>|") << name;
  }
}

TEST_F(ChatTest, ATemplateThatRewritesEarlierAnswersIsRefusedByName) {
  // Shows only the last answer whole, as templates of thinking models do.
  const auto chat = TemplateOf(
      "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}<think></think>"
      "{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
      "{% endif %}");
  const auto two_answers = ReadWith(chat, LineOf(cases_[0]));
  EXPECT_TRUE(absl::IsInvalidArgument(two_answers.status()));
  EXPECT_THAT(std::string(two_answers.status().message()), HasSubstr("messages[2]: the chat template does not say"));
  ordered_json one_answer = LineOf(cases_[0]);
  one_answer["messages"].erase(4);
  one_answer["messages"].erase(3);
  const auto example = ReadWith(chat, one_answer);
  ASSERT_THAT(example, IsOk());
  EXPECT_THAT(Learnt(*example), HasSubstr("green & \"blue\" <|im_end|>|"));
}

TEST_F(ChatTest, AnAnswerThatTheTemplateLeavesOpenStillLearnsToEnd) {
  const auto example = ReadWith(TemplateOf("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
                                           "{% if add_generation_prompt %}assistant: {% endif %}"),
                                LineOf(cases_[1]));
  ASSERT_THAT(example, IsOk());
  EXPECT_EQ(example->labels.back(), *tokenizer_->eos_token_id());
}

TEST_F(ChatTest, SaysWhatIsWrongWithALine) {
  const auto error = [&](const char* line) {
    return std::string(Read("chatml", ordered_json::parse(line)).status().message());
  };
  EXPECT_THAT(error(R"({"messages": []})"), HasSubstr("messages: missing or empty"));
  EXPECT_THAT(error(R"({"messages": [{"content": "a"}]})"), HasSubstr("messages[0].role: missing"));
  EXPECT_THAT(error(R"({"messages": [{"role": "user"}]})"), HasSubstr("messages[0].content: missing"));
  EXPECT_THAT(error(R"({"messages": [{"role": "user", "content": "a"}]})"), HasSubstr("none of the assistant"));
  EXPECT_THAT(error(R"({"messages": [{"role": "assistant", "content": "a", "weight": 2}]})"),
              HasSubstr("messages[0].weight: 2; limit: 0 or 1"));
}

TEST_F(ChatTest, AModelWithoutATemplateSaysSo) {
  const ExampleReader reader({.format = ExampleFormat::kChat,
                              .tokenizer = tokenizer_,
                              .chat_template = ChatTemplate::Load(TokenizerDir()),
                              .eos_token_id = 0,
                              .max_length_tokens = 64});
  const auto read = reader.Read(LineOf(cases_[0]).dump());
  EXPECT_TRUE(absl::IsFailedPrecondition(read.status()));
  EXPECT_THAT(std::string(read.status().message()), HasSubstr("the model has no chat template"));
}

}  // namespace
}  // namespace lorad
