#include <google/protobuf/stubs/logging.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include <nlohmann/json.hpp>

#include "absl/types/span.h"
#include "model/base/check.h"
#include "model/text/detokenizer.h"
#include "model/text/tokenizer.h"
#include "model/text/utf8.h"
#include "server/stop_matcher.h"
#include "server/to_proto.h"
#include "server/translate.h"
#include "tests/fuzz/field_changes.h"
#include "tests/fuzz/targets.h"

namespace lorad {
namespace {

using Tokenizers = std::vector<std::shared_ptr<const Tokenizer>>;

void CheckUtf8(const std::string& text) { LORAD_CHECK(!FindInvalidUtf8(text).has_value()); }

// Whatever the text, its ids are ids, and what they decode to is text.
void Tokenize(const Tokenizers& tokenizers, const std::string& text) {
  for (const auto& tokenizer : tokenizers) {
    const auto ids = tokenizer->Encode(text, /*add_special_tokens=*/true);
    if (!ids.ok()) continue;
    for (const int32_t id : *ids) LORAD_CHECK(id >= 0 && id < tokenizer->vocab_size());
    const auto decoded = tokenizer->Decode(*ids, /*skip_special_tokens=*/true);
    if (decoded.ok()) CheckUtf8(*decoded);
  }
}

// As an answer is made: ids in any order, two bytes each, some beyond the vocabulary.
void Stream(const Tokenizers& tokenizers, const std::string& input) {
  for (const auto& tokenizer : tokenizers) {
    const auto most = static_cast<unsigned>(tokenizer->vocab_size() + 2);
    std::vector<int32_t> ids;
    for (size_t i = 0; i + 1 < input.size() && ids.size() < 256; i += 2) {
      const unsigned pair = static_cast<unsigned char>(input[i]) << 8 | static_cast<unsigned char>(input[i + 1]);
      ids.push_back(static_cast<int32_t>(pair % most));
    }
    const size_t prompt = std::min<size_t>(ids.size(), 3);
    Detokenizer detokenizer(tokenizer, absl::MakeConstSpan(ids).first(prompt), /*skip_special_tokens=*/true);
    StopMatcher matcher({"ab", "\n\n", "\xEF\xBF\xBD"});
    bool stopped = false;
    for (size_t i = prompt; i < ids.size() && !stopped; ++i) {
      const std::string piece = detokenizer.Append(ids[i]);
      CheckUtf8(piece);
      stopped = matcher.Append(piece).stopped;
    }
    CheckUtf8(detokenizer.Finish());
  }
}

// What the sampler and the scheduler rely on.
void CheckSampling(const SamplingOptions& options, int64_t id_limit) {
  for (const float number : {options.temperature, options.top_p, options.min_p, options.repetition_penalty,
                             options.presence_penalty, options.frequency_penalty}) {
    LORAD_CHECK(std::isfinite(number));
  }
  LORAD_CHECK(options.max_tokens >= 1 && options.min_tokens >= 0 && options.min_tokens <= options.max_tokens);
  for (const std::string& stop : options.stop) LORAD_CHECK(!stop.empty());
  for (const int32_t id : options.stop_token_ids) LORAD_CHECK(id >= 0 && id < id_limit);
  for (const auto& [id, bias] : options.logit_bias) {
    LORAD_CHECK(id >= 0 && id < id_limit && std::isfinite(bias));
  }
}

void Translate(const v1::GenerateRequest& request) {
  ModelFacts model;
  model.max_context_tokens = 4096;
  model.vocab_size = 1000;
  model.eos_token_ids = {2};
  const absl::Status checked = CheckGenerateRequest(request);
  LORAD_CHECK(ToGrpc(checked).error_message().size() < 2100);  // it goes into trailers
  (void)CheckText(request.text(), model);
  (void)CheckIdsToDecode(request.token_ids().ids_size(), model);
  const auto ids = TranslateIds(request.token_ids().ids(), model.vocab_size, "token_ids");
  if (ids.ok()) {
    for (const int32_t id : *ids) LORAD_CHECK(id >= 0 && id < model.vocab_size);
  }
  const auto sampling = TranslateSampling(request, model, request.token_ids().ids_size(), 1);
  if (checked.ok() && sampling.ok()) CheckSampling(*sampling, IdLimit(request, model));
}

std::vector<std::string> RequestSeeds() {
  v1::GenerateRequest request;
  request.set_text("hello");
  request.set_adapter("team/a:1");
  request.set_request_id("r-1");
  std::vector<std::string> seeds = {request.SerializeAsString()};
  v1::SamplingParams* sampling = request.mutable_sampling();
  sampling->set_temperature(0.5f);
  sampling->set_top_p(0.9f);
  sampling->set_max_tokens(7);
  sampling->set_n(3);
  sampling->add_stop("stop");
  sampling->add_stop_token_ids(9);
  (*sampling->mutable_logit_bias())[4] = -1.0f;
  request.set_logprobs(2);
  request.set_prompt_logprobs(2);
  seeds.push_back(request.SerializeAsString());
  for (uint32_t id = 0; id < 20; ++id) request.mutable_token_ids()->add_ids(id * 50);
  request.add_adapters()->set_name("b");
  seeds.push_back(request.SerializeAsString());
  return seeds;
}

void TranslateBytes(const std::string& input) {
  v1::GenerateRequest request;
  if (request.ParseFromString(input)) Translate(request);
}

// The input says what changes in the last of RequestSeeds().
void TranslateChanged(const std::string& input) {
  static const std::string* full = new std::string(RequestSeeds().back());
  v1::GenerateRequest request;
  LORAD_CHECK(request.ParseFromString(*full));
  ChangeFields(input, &request);
  TranslateBytes(request.SerializeAsString());
}

std::vector<std::string> StringsOf(const std::string& file) {
  std::vector<std::string> seeds;
  for (const nlohmann::json& text : nlohmann::json::parse(Contents(file))) {
    if (text.is_string()) seeds.push_back(text.get<std::string>());
  }
  LORAD_CHECK(!seeds.empty());
  return seeds;
}

}  // namespace

std::vector<FuzzTarget> RequestTargets(const FuzzPlaces& places) {
  const std::string folder = places.golden + "/tokenizers/";
  Tokenizers tokenizers;
  for (const char* name : {"llama2", "llama3", "sentencepiece_bpe", "sentencepiece_unigram"}) {
    tokenizers.push_back(Tokenizer::Load(folder + name).value());
  }
  const std::vector<std::string> texts = StringsOf(folder + "strings.json");
  google::protobuf::SetLogHandler(nullptr);  // a line for each wrong byte

  std::vector<FuzzTarget> targets;
  targets.push_back({.name = "generate_request",
                     .seeds = RequestSeeds(),
                     .words = Words("\x0a \x12 \xff\xff\xff\xff\x0f"),
                     .run = TranslateBytes});
  targets.push_back({.name = "generate_fields",
                     .seeds = {std::string(8, '\x05'), std::string(24, '\x43'), "temperature", "\x04\x02\x13\x03\x0a"},
                     .words = {},
                     .run = TranslateChanged});
  targets.push_back({.name = "text",
                     .seeds = texts,
                     .words = Words("<s> </s> <|begin_of_text|> <0x80> \xE2\x96\x81 \n \xF0\x9F\x98\x80 \xFF"),
                     .run = [tokenizers](const std::string& input) { Tokenize(tokenizers, input); },
                     .cost = 8});
  targets.push_back({.name = "ids",
                     .seeds = texts,
                     .words = {std::string(2, '\0'), std::string(16, '\x01')},
                     .run = [tokenizers](const std::string& input) { Stream(tokenizers, input); },
                     .cost = 20});
  return targets;
}

}  // namespace lorad
