#pragma once

#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "model/text/tokenizer.h"
#include "tests/support/source_dir.h"

namespace lorad {

// tests/golden/tokenizers: what transformers and sentencepiece make of 300 strings and 150 sequences of ids.
inline constexpr const char* kGoldenTokenizers[] = {
    "llama2", "llama3", "mistral", "opt", "qwen2", "sentencepiece_bpe", "sentencepiece_unigram"};

inline std::string GoldenTokenizerDir(const std::string& name) {
  return SourceDir() + "/tests/golden/tokenizers/" + name;
}

inline nlohmann::json ReadGoldenJson(const std::string& name) {
  std::ifstream file(GoldenTokenizerDir(name));
  std::stringstream content;
  content << file.rdbuf();
  return nlohmann::json::parse(content.str(), nullptr, false);
}

struct StringCase {
  std::string text;
  std::vector<int32_t> ids;         // Without special tokens.
  std::vector<int32_t> whole;       // With them.
  std::string shown;                // `whole` decoded, special tokens skipped.
  std::string all;                  // `whole` decoded.
  std::vector<size_t> piece_bytes;  // What each id of `whole` settles of `shown`.
};

struct SequenceCase {
  std::vector<int32_t> ids;
  std::string shown;
  std::string all;
};

struct TokenizerGolden {
  int32_t size = 0;
  std::vector<StringCase> strings;
  std::vector<SequenceCase> sequences;
};

inline TokenizerGolden ReadTokenizerGolden(const std::string& name) {
  const nlohmann::json texts = ReadGoldenJson("strings.json");
  const nlohmann::json json = ReadGoldenJson(name + "/cases.json");
  TokenizerGolden golden;
  if (!texts.is_array() || !json.is_object() || json["strings"].size() != texts.size()) return golden;
  golden.size = json["size"].get<int32_t>();
  for (size_t i = 0; i < texts.size(); ++i) {
    const nlohmann::json& from = json["strings"][i];
    StringCase c;
    c.text = texts[i].get<std::string>();
    c.ids = from["ids"].get<std::vector<int32_t>>();
    c.whole = json["before"].get<std::vector<int32_t>>();
    c.whole.insert(c.whole.end(), c.ids.begin(), c.ids.end());
    const auto after = json["after"].get<std::vector<int32_t>>();
    c.whole.insert(c.whole.end(), after.begin(), after.end());
    c.shown = from.value("shown", c.text);
    c.all = from.value("all", c.text);
    c.piece_bytes = from["pieces"].get<std::vector<size_t>>();
    golden.strings.push_back(std::move(c));
  }
  for (const nlohmann::json& from : json["sequences"]) {
    const std::string shown = from["shown"].get<std::string>();
    golden.sequences.push_back({from["ids"].get<std::vector<int32_t>>(), shown, from.value("all", shown)});
  }
  return golden;
}

}  // namespace lorad
