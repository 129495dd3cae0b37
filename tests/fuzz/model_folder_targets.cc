#include "model/config.h"
#include "model/text/tokenizer.h"
#include "tests/fuzz/targets.h"

namespace lorad {
namespace {

constexpr char kText[] = "Hello, \xC3\xA9\xF0\x9F\x98\x80 1234\n";

void LoadConfig(const std::string& dir) {
  const absl::StatusOr<ModelConfig> config = ReadModelConfig(dir);
  if (config.ok()) (void)BaseShapeOf(*config);
}

void LoadTokenizer(const std::string& dir) {
  const auto tokenizer = Tokenizer::Load(dir);
  if (!tokenizer.ok()) return;
  const auto ids = (*tokenizer)->Encode(kText, /*add_special_tokens=*/true);
  if (ids.ok()) (void)(*tokenizer)->Decode(*ids, /*skip_special_tokens=*/false);
  for (const int32_t id : {0, 1, (*tokenizer)->vocab_size() - 1, (*tokenizer)->vocab_size()}) {
    (void)(*tokenizer)->Decode({id}, /*skip_special_tokens=*/true);
    (void)(*tokenizer)->IdToPiece(id);
    (void)(*tokenizer)->is_special(id);
  }
}

const char kConfigWords[] =
    R"("architectures" "LlamaForCausalLM" "Qwen3ForCausalLM" "MistralForCausalLM" "Gemma3ForCausalLM" "MixtralForCausalLM" )"
    R"("OPTForCausalLM" "PhiForCausalLM" "Phi3ForCausalLM" "model_type" "rope_scaling" "rope_parameters" "rope_type" "llama3" )"
    R"("linear" "yarn" "longrope" "dynamic" "num_hidden_layers" "head_dim" "vocab_size" "sliding_window" "layer_types" )"
    R"("num_local_experts" "num_experts_per_tok" "torch_dtype" "eos_token_id" [ ] { } , : null true -1 1e308 "\u0000")";

}  // namespace

std::vector<FuzzTarget> ModelFolderTargets(const FuzzPlaces& places) {
  const std::string tokenizers = places.golden + "/tokenizers";
  const std::string opt = tokenizers + "/opt/";
  const std::map<std::string, std::string> sound_config = {
      {"config.json", Contents(places.golden + "/llama3/model/config.json")}};
  const std::map<std::string, std::string> vocabulary = {{"vocab.json", Contents(opt + "vocab.json")}};
  const std::map<std::string, std::string> bpe = {{"vocab.json", Contents(opt + "vocab.json")},
                                                  {"merges.txt", Contents(opt + "merges.txt")}};

  std::vector<FuzzTarget> targets;
  targets.push_back({.name = "model_config",
                     .seeds = SeedsNamed("config.json", {places.golden}),
                     .words = Words(kConfigWords),
                     .run = WithFile(places.scratch / "model", "config.json", {}, LoadConfig),
                     .cost = 4});
  targets.push_back(
      {.name = "generation_config",
       .seeds = {R"({"eos_token_id": [1, 2], "temperature": 0.6, "top_p": 0.9, "top_k": 20, "min_p": 0.1})",
                 R"({"repetition_penalty": 1.1, "eos_token_id": 2, "bos_token_id": null})"},
       .words = Words(kConfigWords),
       .run = WithFile(places.scratch / "generation", "generation_config.json", sound_config, LoadConfig),
       .cost = 4});
  targets.push_back(
      {.name = "tokenizer_json",
       .seeds = SeedsNamed("tokenizer.json", {tokenizers}),
       .words = Words(R"("BPE" "Unigram" "WordPiece" "added_tokens" "id" "Split" "ByteLevel" "Metaspace" )"
                      R"("Precompiled" null -1 [ { "(a*)*b")"),
       .run = WithFile(places.scratch / "hf", "tokenizer.json", {}, LoadTokenizer),
       .cost = 300});
  targets.push_back({.name = "sentencepiece",
                     .seeds = SeedsNamed("tokenizer.model", {tokenizers}),
                     .words = Words("\xE2\x96\x81 <0x00> <unk> <s>"),
                     .run = WithFile(places.scratch / "sp", "tokenizer.model", {}, LoadTokenizer),
                     .cost = 300});
  targets.push_back({.name = "merges",
                     .seeds = {Contents(opt + "merges.txt")},
                     .words = {"#version: 0.2\n", " ", "\n", "a b\n"},
                     .run = WithFile(places.scratch / "merges", "merges.txt", vocabulary, LoadTokenizer),
                     .cost = 300});
  targets.push_back({.name = "tokenizer_config",
                     .seeds = SeedsNamed("tokenizer_config.json", {tokenizers}),
                     .words = Words(R"("added_tokens_decoder" "bos_token" "add_bos_token" "content" "special" )"
                                    R"("tokenizer_class" "-1" "4294967296" { } null)"),
                     .run = WithFile(places.scratch / "tc", "tokenizer_config.json", bpe, LoadTokenizer),
                     .cost = 300});
  return targets;
}

}  // namespace lorad
