#include "model/config.h"

#include <cmath>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/status_matchers.h"
#include "tests/support/test_files.h"

namespace lorad {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr absl::StatusCode kDataLoss = absl::StatusCode::kDataLoss;
constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;
constexpr absl::StatusCode kUnimplemented = absl::StatusCode::kUnimplemented;

json Llama() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"vocab_size", 100},
          {"hidden_size", 64},
          {"intermediate_size", 96},
          {"num_hidden_layers", 3},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"max_position_embeddings", 256},
          {"rms_norm_eps", 1e-5},
          {"hidden_act", "silu"},
          {"eos_token_id", 2}};
}

json Qwen2() {
  json config = Llama();
  config["architectures"] = {"Qwen2ForCausalLM"};
  config["model_type"] = "qwen2";
  return config;
}

// Published OPT and Phi configs leave most keys out.
json Opt() {
  return {{"architectures", {"OPTForCausalLM"}},
          {"model_type", "opt"},
          {"vocab_size", 100},
          {"hidden_size", 64},
          {"ffn_dim", 96},
          {"num_hidden_layers", 3},
          {"num_attention_heads", 4},
          {"max_position_embeddings", 50}};
}

json Phi() {
  json config = Llama();
  config["architectures"] = {"PhiForCausalLM"};
  config["model_type"] = "phi";
  config.erase("hidden_act");
  config.erase("num_key_value_heads");
  return config;
}

json With(json config, const char* key, json value) {
  config[key] = std::move(value);
  return config;
}

absl::StatusOr<ModelConfig> ReadText(const std::string& config, const std::string& generation = "") {
  const TempDir dir;
  WriteFile(dir.File("config.json"), config);
  if (!generation.empty()) WriteFile(dir.File("generation_config.json"), generation);
  return ReadModelConfig(dir.path());
}

absl::StatusOr<ModelConfig> Read(const json& config, const std::string& generation = "") {
  return ReadText(config.dump(), generation);
}

TEST(ConfigTest, ReadsLlamaWithDefaults) {
  const absl::StatusOr<ModelConfig> config = Read(Llama());
  ASSERT_THAT(config, IsOk());
  EXPECT_EQ(config->model_type, "llama");
  EXPECT_EQ(config->head_dim, 16);
  EXPECT_EQ(config->num_kv_heads, 2);
  EXPECT_DOUBLE_EQ(config->attention_scale, 0.25);
  EXPECT_DOUBLE_EQ(config->norm_eps, 1e-5);
  EXPECT_FALSE(config->qkv_bias || config->o_bias || config->mlp_bias || config->qk_norm || config->tied_embeddings);
  EXPECT_THAT(config->window_tokens, ElementsAre(0, 0, 0));
  EXPECT_EQ(config->rope.scaling, RopeScaling::kNone);
  EXPECT_DOUBLE_EQ(config->rope.theta, 10000.0);
  EXPECT_EQ(config->rope.rotary_dim, 16);
  EXPECT_EQ(config->checkpoint_dtype, DType::kF32);
  EXPECT_THAT(config->eos_token_ids, ElementsAre(2));
}

TEST(ConfigTest, BothSpellingsOfRopeAndDTypeAreTheSame) {
  const json scaling = {{"rope_type", "llama3"},
                        {"factor", 8.0},
                        {"low_freq_factor", 1.0},
                        {"high_freq_factor", 4.0},
                        {"original_max_position_embeddings", 64}};
  json older = scaling;  // Before version 4.45 the key was "type".
  older.erase("rope_type");
  older["type"] = "llama3";
  const json v4 = With(With(With(Llama(), "rope_scaling", scaling), "rope_theta", 5e5), "torch_dtype", "bfloat16");
  const json v5 = With(With(Llama(), "rope_parameters", With(scaling, "rope_theta", 5e5)), "dtype", "bfloat16");
  for (const json& spelling : {v4, With(v4, "rope_scaling", older), v5}) {
    const absl::StatusOr<ModelConfig> config = Read(spelling);
    ASSERT_THAT(config, IsOk());
    EXPECT_EQ(config->rope.scaling, RopeScaling::kLlama3);
    EXPECT_DOUBLE_EQ(config->rope.theta, 5e5);
    EXPECT_DOUBLE_EQ(config->rope.factor, 8.0);
    EXPECT_DOUBLE_EQ(config->rope.low_freq_factor, 1.0);
    EXPECT_DOUBLE_EQ(config->rope.high_freq_factor, 4.0);
    EXPECT_EQ(config->rope.original_max_positions, 64);
    EXPECT_EQ(config->checkpoint_dtype, DType::kBF16);
  }
  EXPECT_THAT(Read(With(v4, "rope_scaling", nullptr)), IsOk());
}

TEST(ConfigTest, ReadsBiasesAndHeadDim) {
  const auto config = Read(With(With(With(Llama(), "attention_bias", true), "mlp_bias", true), "head_dim", 20));
  ASSERT_THAT(config, IsOk());
  EXPECT_TRUE(config->qkv_bias && config->o_bias && config->mlp_bias);
  EXPECT_EQ(config->head_dim, 20);
}

TEST(ConfigTest, LlamaWithoutKvHeadsHasAsManyAsHeads) {
  json config = Llama();
  config.erase("num_key_value_heads");
  EXPECT_EQ(Read(config)->num_kv_heads, 4);
  EXPECT_EQ(Read(With(Qwen2(), "num_key_value_heads", nullptr))->num_kv_heads, 4);
  json qwen = Qwen2();
  qwen.erase("num_key_value_heads");
  EXPECT_THAT(Read(qwen), IsError(kInvalid, HasSubstr("num_key_value_heads")));
}

TEST(ConfigTest, MistralsWindowIsOnAllLayers) {
  json config = With(With(Llama(), "architectures", {"MistralForCausalLM"}), "model_type", "mistral");
  EXPECT_THAT(Read(With(config, "sliding_window", 8))->window_tokens, ElementsAre(8, 8, 8));
  EXPECT_THAT(Read(With(config, "sliding_window", nullptr))->window_tokens, ElementsAre(0, 0, 0));
  EXPECT_THAT(Read(config)->window_tokens, ElementsAre(4096, 4096, 4096));
  EXPECT_THAT(Read(With(config, "sliding_window", 0)), IsError(kInvalid, HasSubstr("sliding_window: 0")));
}

TEST(ConfigTest, QwenWindowsByFirstLayerOrByList) {
  const json used = With(With(Qwen2(), "use_sliding_window", true), "sliding_window", 6);
  EXPECT_THAT(Read(With(used, "max_window_layers", 1))->window_tokens, ElementsAre(0, 6, 6));
  EXPECT_THAT(Read(With(With(Qwen2(), "sliding_window", 6), "max_window_layers", 1))->window_tokens,
              ElementsAre(0, 0, 0));
  const json types = {"sliding_attention", "full_attention", "sliding_attention"};
  EXPECT_THAT(Read(With(used, "layer_types", types))->window_tokens, ElementsAre(6, 0, 6));
  EXPECT_THAT(Read(With(Qwen2(), "layer_types", types)), IsError(kInvalid, HasSubstr("layer_types")));
  EXPECT_THAT(Read(With(used, "layer_types", {"full_attention"})), IsError(kInvalid, HasSubstr("entries: 1")));
  EXPECT_THAT(Read(With(used, "layer_types", {"full_attention", "chunked_attention", "full_attention"})),
              IsError(kUnimplemented, HasSubstr("chunked_attention")));
}

TEST(ConfigTest, Qwen2HasBiasesOnQkvAndQwen3Norms) {
  const auto qwen2 = Read(Qwen2());
  ASSERT_THAT(qwen2, IsOk());
  EXPECT_TRUE(qwen2->qkv_bias && !qwen2->o_bias && !qwen2->qk_norm);
  const auto qwen3 = Read(With(With(Llama(), "architectures", {"Qwen3ForCausalLM"}), "model_type", "qwen3"));
  ASSERT_THAT(qwen3, IsOk());
  EXPECT_TRUE(!qwen3->qkv_bias && qwen3->qk_norm);
  EXPECT_EQ(qwen3->head_dim, 128);
}

TEST(ConfigTest, ReadsOptWithDefaults) {
  const auto config = Read(Opt());
  ASSERT_THAT(config, IsOk());
  EXPECT_EQ(config->norm, NormKind::kLayer);
  EXPECT_DOUBLE_EQ(config->norm_eps, 1e-5);
  EXPECT_EQ(config->block, BlockKind::kPreNorm);
  EXPECT_EQ(config->activation, Activation::kRelu);
  EXPECT_TRUE(config->qkv_bias && config->o_bias && config->mlp_bias && config->tied_embeddings);
  EXPECT_TRUE(config->norm_weights && config->final_norm && !config->gated_ffn);
  EXPECT_EQ(config->num_kv_heads, 4);
  EXPECT_EQ(config->intermediate_size, 96);
  EXPECT_EQ(config->embedding_size, 64);
  EXPECT_EQ(config->rope.rotary_dim, 0);
  EXPECT_EQ(config->position_offset, 2);
  EXPECT_EQ(config->max_context_tokens, 50);
}

TEST(ConfigTest, OptsNormsGoBehindOrAway) {
  const auto behind = Read(With(Opt(), "do_layer_norm_before", false));
  EXPECT_EQ(behind->block, BlockKind::kPostNorm);
  EXPECT_FALSE(behind->final_norm);
  EXPECT_FALSE(Read(With(Opt(), "_remove_final_layer_norm", true))->final_norm);
  EXPECT_FALSE(Read(With(Opt(), "layer_norm_elementwise_affine", false))->norm_weights);
  EXPECT_EQ(Read(With(Opt(), "activation_function", "gelu"))->activation, Activation::kGelu);
  EXPECT_THAT(Read(With(Opt(), "activation_function", "tanh")),
              IsError(kUnimplemented, HasSubstr("activation_function: \"tanh\"")));
  EXPECT_THAT(Read(With(Opt(), "ffn_dim", 0)), IsError(kInvalid, HasSubstr("ffn_dim: 0")));
  EXPECT_THAT(Read(With(Opt(), "word_embed_proj_dim", -1)), IsError(kInvalid, HasSubstr("word_embed_proj_dim: -1")));
}

TEST(ConfigTest, ReadsPhiWithDefaults) {
  const auto config = Read(Phi());
  ASSERT_THAT(config, IsOk());
  EXPECT_EQ(config->norm, NormKind::kLayer);
  EXPECT_EQ(config->block, BlockKind::kParallel);
  EXPECT_EQ(config->activation, Activation::kGeluTanh);
  EXPECT_TRUE(config->qkv_bias && config->o_bias && config->mlp_bias && !config->tied_embeddings && !config->gated_ffn);
  EXPECT_EQ(config->num_kv_heads, 4);
  EXPECT_EQ(config->rope.rotary_dim, 8);  // half of 16
  EXPECT_DOUBLE_EQ(Read(With(Phi(), "layer_norm_eps", 1e-3))->norm_eps, 1e-3);
  EXPECT_THAT(Read(With(Phi(), "qk_layernorm", true)), IsError(kUnimplemented, HasSubstr("qk_layernorm: true")));
}

TEST(ConfigTest, ThePartOfAHeadThatPhiRotates) {
  // Where it stands in versions 4 and 5; HF truncates.
  EXPECT_EQ(Read(With(Phi(), "partial_rotary_factor", 0.4))->rope.rotary_dim, 6);
  EXPECT_EQ(
      Read(With(Phi(), "rope_parameters", {{"rope_theta", 1e4}, {"partial_rotary_factor", 0.75}}))->rope.rotary_dim,
      12);
  for (const double factor : {0.2, 0.0}) {
    EXPECT_THAT(Read(With(Phi(), "partial_rotary_factor", factor)),
                IsError(kInvalid, HasSubstr("partial_rotary_factor")));
  }
}

TEST(ConfigTest, YarnAndDynamicReachFurtherThanTheModelWasTrainedFor) {
  const auto yarn = Read(With(Llama(), "rope_scaling", {{"type", "yarn"}, {"factor", 4.0}}));
  ASSERT_THAT(yarn, IsOk());
  EXPECT_EQ(yarn->rope.original_max_positions, 256);
  EXPECT_EQ(yarn->max_context_tokens, 1024);
  EXPECT_EQ(yarn->rope_switch.every_tokens, 0);
  EXPECT_DOUBLE_EQ(yarn->rope.attention_factor, 0.1 * std::log(4.0) + 1.0);
  const json stated = {{"rope_type", "yarn"}, {"factor", 4.0},         {"original_max_position_embeddings", 64},
                       {"mscale", 0.5},       {"mscale_all_dim", 2.0}, {"truncate", false}};
  const auto as_stated = Read(With(Llama(), "rope_parameters", stated));
  ASSERT_THAT(as_stated, IsOk());
  EXPECT_EQ(as_stated->max_context_tokens, 256);
  EXPECT_FALSE(as_stated->rope.truncate);
  EXPECT_DOUBLE_EQ(as_stated->rope.attention_factor, (0.05 * std::log(4.0) + 1.0) / (0.2 * std::log(4.0) + 1.0));

  const auto dynamic = Read(With(Llama(), "rope_parameters", {{"rope_type", "dynamic"}, {"factor", 3.0}}));
  ASSERT_THAT(dynamic, IsOk());
  EXPECT_EQ(dynamic->max_context_tokens, 768);
  EXPECT_EQ(dynamic->rope_switch.VariantOf(256), 0);
  EXPECT_EQ(dynamic->rope_switch.VariantOf(257), 1);
  EXPECT_EQ(dynamic->rope_switch.VariantOf(768), 2);
}

json Phi3() {
  json config = Llama();
  config["architectures"] = {"Phi3ForCausalLM"};
  config["model_type"] = "phi3";
  config["partial_rotary_factor"] = 0.25;
  config["original_max_position_embeddings"] = 32;
  config["rope_scaling"] = {{"type", "longrope"}, {"short_factor", {1.0, 1.0}}, {"long_factor", {2.0, 3.0}}};
  return config;
}

TEST(ConfigTest, Phi3HasFusedModulesAndALongRope) {
  const auto config = Read(Phi3());
  ASSERT_THAT(config, IsOk());
  EXPECT_EQ(config->rope.rotary_dim, 4);
  EXPECT_THAT(config->rope.long_factors, ElementsAre(2.0, 3.0));
  EXPECT_DOUBLE_EQ(config->rope.attention_factor, std::sqrt(1 + std::log(8.0) / std::log(32.0)));
  EXPECT_EQ(config->max_context_tokens, 256);
  EXPECT_EQ(config->rope_switch.VariantOf(32), 0);
  EXPECT_EQ(config->rope_switch.VariantOf(256), 1);
  EXPECT_THAT(config->window_tokens, ElementsAre(0, 0, 0));
  const BaseShape shape = BaseShapeOf(*config);
  EXPECT_EQ(shape.Find(Site::kQProj), nullptr);
  ASSERT_NE(shape.Find(Site::kQkvProj), nullptr);
  EXPECT_EQ(shape.Find(Site::kQkvProj)->out_features, 64 + 2 * 32);
  EXPECT_EQ(shape.Find(Site::kGateUpProj)->module_path, "model.layers.{}.mlp.gate_up_proj");
  EXPECT_THAT(Read(With(Phi3(), "rope_scaling", {{"type", "dynamic"}, {"factor", 2.0}})),
              IsError(kUnimplemented, HasSubstr("rope_scaling")));
}

json Gemma(const char* architecture, const char* model_type) {
  json config = Llama();
  config["architectures"] = {architecture};
  config["model_type"] = model_type;
  config.erase("hidden_act");
  return config;
}

TEST(ConfigTest, GemmasHaveWhatTheirFilesLeaveOut) {
  const auto gemma = Read(Gemma("GemmaForCausalLM", "gemma"));
  ASSERT_THAT(gemma, IsOk());
  EXPECT_EQ(gemma->norm, NormKind::kRmsPlusOne);
  EXPECT_EQ(gemma->activation, Activation::kGeluTanh);
  EXPECT_EQ(gemma->head_dim, 256);
  EXPECT_TRUE(gemma->tied_embeddings);
  EXPECT_DOUBLE_EQ(gemma->embedding_scale, 8.0);
  const auto gemma2 = Read(With(Gemma("Gemma2ForCausalLM", "gemma2"), "final_logit_softcapping", nullptr));
  ASSERT_THAT(gemma2, IsOk());
  EXPECT_THAT(gemma2->window_tokens, ElementsAre(4096, 0, 4096));
  EXPECT_DOUBLE_EQ(gemma2->attention_softcap, 50.0);
  EXPECT_DOUBLE_EQ(gemma2->logit_softcap, 0.0);
  EXPECT_DOUBLE_EQ(gemma2->attention_scale, 1.0 / 16);
}

TEST(ConfigTest, Gemma3HasTwoRopesInEitherSpelling) {
  json v4 = Gemma("Gemma3ForCausalLM", "gemma3_text");
  v4["sliding_window_pattern"] = 3;
  v4["sliding_window"] = 7;
  v4["rope_theta"] = 2e6;
  v4["rope_local_base_freq"] = 3e4;
  v4["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 8.0}};
  json v5 = Gemma("Gemma3ForCausalLM", "gemma3_text");
  v5["layer_types"] = {"sliding_attention", "sliding_attention", "full_attention"};
  v5["sliding_window"] = 7;
  v5["rope_parameters"] = {{"full_attention", {{"rope_type", "linear"}, {"factor", 8.0}, {"rope_theta", 2e6}}},
                           {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 3e4}}}};
  for (const json& spelling : {v4, v5}) {
    const auto config = Read(spelling);
    ASSERT_THAT(config, IsOk());
    EXPECT_THAT(config->window_tokens, ElementsAre(7, 7, 0));
    EXPECT_EQ(config->rope.scaling, RopeScaling::kLinear);
    EXPECT_DOUBLE_EQ(config->rope.theta, 2e6);
    ASSERT_TRUE(config->local_rope.has_value());
    EXPECT_EQ(config->local_rope->scaling, RopeScaling::kNone);
    EXPECT_DOUBLE_EQ(config->local_rope->theta, 3e4);
  }
  v5["rope_parameters"]["sliding_attention"] = {{"rope_type", "dynamic"}, {"factor", 2.0}};
  EXPECT_THAT(Read(v5), IsError(kUnimplemented, HasSubstr("sliding_attention: rope_type: \"dynamic\"")));
}

TEST(ConfigTest, EndTokensAreTheUnionOfBothFiles) {
  EXPECT_THAT(Read(Llama(), R"({"eos_token_id":[5,2,7]})")->eos_token_ids, ElementsAre(2, 5, 7));
  EXPECT_THAT(Read(With(Llama(), "eos_token_id", {3, 4}), R"({"eos_token_id":9})")->eos_token_ids,
              ElementsAre(3, 4, 9));
  EXPECT_THAT(Read(With(Llama(), "eos_token_id", nullptr))->eos_token_ids, ElementsAre());
  EXPECT_THAT(Read(Llama(), R"({"eos_token_id":100})"), IsError(kInvalid, HasSubstr("eos_token_id: 100")));
  EXPECT_THAT(Read(With(Llama(), "eos_token_id", -1)), IsError(kInvalid, HasSubstr("eos_token_id: -1")));
}

TEST(ConfigTest, ReadsGenerationDefaults) {
  const auto config =
      Read(Llama(), R"({"temperature":0.6,"top_p":0.9,"top_k":20,"min_p":0.1,"repetition_penalty":1.1})");
  ASSERT_THAT(config, IsOk());
  EXPECT_FLOAT_EQ(config->generation.temperature, 0.6f);
  EXPECT_FLOAT_EQ(config->generation.top_p, 0.9f);
  EXPECT_EQ(config->generation.top_k, 20);
  EXPECT_FLOAT_EQ(config->generation.min_p, 0.1f);
  EXPECT_FLOAT_EQ(config->generation.repetition_penalty, 1.1f);
  EXPECT_THAT(Read(Llama(), R"({"temperature":"hot"})"),
              IsError(kInvalid, AllOf(HasSubstr("generation_config.json"), HasSubstr("hot"))));
}

TEST(ConfigTest, RefusesGenerationDefaultsThatNoRequestMayHave) {
  for (const char* defaults : {R"({"repetition_penalty":0.001})", R"({"repetition_penalty":101})",
                               R"({"temperature":101})", R"({"temperature":-1})", R"({"top_p":0})", R"({"min_p":2})"}) {
    EXPECT_THAT(Read(Llama(), defaults), IsError(kInvalid, HasSubstr("generation_config.json"))) << defaults;
  }
}

TEST(ConfigTest, RefusesByNameWhatWouldChangeTheAnswer) {
  const json llama = Llama();
  EXPECT_THAT(Read(With(llama, "architectures", {"GPTNeoXForCausalLM"})),
              IsError(kUnimplemented, AllOf(HasSubstr("GPTNeoXForCausalLM"), HasSubstr("Qwen3ForCausalLM"))));
  EXPECT_THAT(Read(With(llama, "architectures", {"LlamaForSequenceClassification"})),
              IsError(kUnimplemented, HasSubstr("LlamaForSequenceClassification")));
  EXPECT_THAT(Read(With(llama, "hidden_act", "gelu")), IsError(kUnimplemented, HasSubstr("hidden_act: \"gelu\"")));
  EXPECT_THAT(Read(With(llama, "quantization_config", {{"quant_method", "gptq"}})),
              IsError(kUnimplemented, AllOf(HasSubstr("quantization_config"), HasSubstr("gptq"))));
  EXPECT_THAT(Read(With(llama, "dtype", "float8_e4m3fn")), IsError(kUnimplemented, HasSubstr("float8_e4m3fn")));
  EXPECT_THAT(Read(With(llama, "partial_rotary_factor", 0.5)),
              IsError(kUnimplemented, HasSubstr("partial_rotary_factor: 0.5")));
  for (const char* type : {"su", "mrope", "proportional"}) {
    EXPECT_THAT(Read(With(llama, "rope_scaling", {{"type", type}, {"factor", 2.0}})),
                IsError(kUnimplemented, HasSubstr(type)));
    EXPECT_THAT(Read(With(llama, "rope_parameters", {{"rope_type", type}, {"factor", 2.0}})),
                IsError(kUnimplemented, HasSubstr(type)));
  }
  EXPECT_THAT(Read(With(llama, "rope_parameters", {{"rope_theta", 1e4}, {"mrope_section", {1, 2}}})),
              IsError(kUnimplemented, HasSubstr("mrope_section")));
  EXPECT_THAT(Read(With(llama, "rope_parameters", {{"full_attention", json::object()}})),
              IsError(kUnimplemented, HasSubstr("full_attention")));
}

TEST(ConfigTest, RefusesAbsurdAndInconsistentSizes) {
  const json llama = Llama();
  for (const char* key : {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                          "num_key_value_heads", "max_position_embeddings", "head_dim"}) {
    for (const json& value :
         {json(0), json(-1), json(int64_t{1} << 40), json(uint64_t{1} << 63), json(1.5), json("8"), json::array()}) {
      EXPECT_THAT(Read(With(llama, key, value)), IsError(kInvalid, HasSubstr(std::string(key) + ": " + value.dump())))
          << key;
    }
  }
  EXPECT_THAT(Read(With(llama, "num_key_value_heads", 3)),
              IsError(kInvalid, HasSubstr("num_attention_heads: 4; not a multiple of num_key_value_heads: 3")));
  EXPECT_THAT(Read(With(llama, "num_attention_heads", 6)), IsError(kInvalid, HasSubstr("hidden_size")));
  EXPECT_THAT(Read(With(llama, "head_dim", 15)), IsError(kInvalid, HasSubstr("even")));
  EXPECT_THAT(Read(With(llama, "rms_norm_eps", -1)), IsError(kInvalid, HasSubstr("rms_norm_eps")));
  EXPECT_THAT(Read(With(llama, "tie_word_embeddings", "yes")), IsError(kInvalid, HasSubstr("tie_word_embeddings")));
  EXPECT_THAT(Read(With(llama, "rope_scaling", {{"type", "linear"}})), IsError(kInvalid, HasSubstr("factor: absent")));
  EXPECT_THAT(Read(With(llama, "rope_scaling", {{"type", "linear"}, {"factor", 0}})),
              IsError(kInvalid, HasSubstr("factor: 0")));
  EXPECT_THAT(Read(With(llama, "rope_theta", 0)), IsError(kInvalid, HasSubstr("rope_theta: 0")));
  EXPECT_THAT(Read(With(llama, "model_type", "mistral")), IsError(kInvalid, HasSubstr("model_type")));
  json missing = llama;
  missing.erase("vocab_size");
  EXPECT_THAT(Read(missing), IsError(kInvalid, HasSubstr("vocab_size: absent")));
}

TEST(ConfigTest, RefusesBrokenFiles) {
  for (const char* text : {"", "{", "{\"a\":\"\xff\"}"})
    EXPECT_THAT(ReadText(text), IsError(kDataLoss, HasSubstr("config.json"))) << text;
  for (const char* text : {"[]", "null", "3"})
    EXPECT_THAT(ReadText(text), IsError(kInvalid, HasSubstr("config.json"))) << text;
  EXPECT_THAT(Read(Llama(), "{"), IsError(kDataLoss, HasSubstr("generation_config.json")));
  EXPECT_THAT(ReadText("{}"), IsError(kInvalid, HasSubstr("architectures: absent")));
  EXPECT_THAT(Read(With(Llama(), "architectures", {"LlamaForCausalLM", "MistralForCausalLM"})),
              IsError(kInvalid, HasSubstr("one name")));
  EXPECT_THAT(ReadModelConfig("/nonexistent"),
              IsError(absl::StatusCode::kNotFound, HasSubstr("/nonexistent/config.json")));
  EXPECT_THAT(ReadText(std::string(100'000, '[')), IsError(kDataLoss, HasSubstr("config.json")));
}

TEST(BaseShapeTest, OptsAndPhisModulesAreOurSites) {
  const BaseShape opt = BaseShapeOf(*Read(With(Opt(), "word_embed_proj_dim", 20)));
  ASSERT_EQ(opt.sites.size(), 13u);  // norms, too
  const auto expect = [](const BaseShape& shape, Site site, const char* path, int64_t in, int64_t out, bool has_bias) {
    const SiteShape* found = shape.Find(site);
    ASSERT_NE(found, nullptr) << path;
    EXPECT_EQ(found->module_path, path);
    EXPECT_EQ(found->in_features, in) << path;
    EXPECT_EQ(found->out_features, out) << path;
    EXPECT_EQ(found->has_bias, has_bias) << path;
  };
  expect(opt, Site::kOProj, "model.decoder.layers.{}.self_attn.out_proj", 64, 64, true);
  expect(opt, Site::kUpProj, "model.decoder.layers.{}.fc1", 64, 96, true);
  expect(opt, Site::kDownProj, "model.decoder.layers.{}.fc2", 96, 64, true);
  expect(opt, Site::kProjectIn, "model.decoder.project_in", 20, 64, false);
  expect(opt, Site::kProjectOut, "model.decoder.project_out", 64, 20, false);
  expect(opt, Site::kEmbedTokens, "model.decoder.embed_tokens", 100, 20, false);
  expect(opt, Site::kLmHead, "lm_head", 20, 100, false);
  EXPECT_EQ(BaseShapeOf(*Read(Opt())).Find(Site::kProjectIn), nullptr);
  const BaseShape phi = BaseShapeOf(*Read(Phi()));
  ASSERT_EQ(phi.sites.size(), 10u);
  expect(phi, Site::kOProj, "model.layers.{}.self_attn.dense", 64, 64, true);
  expect(phi, Site::kUpProj, "model.layers.{}.mlp.fc1", 64, 96, true);
  expect(phi, Site::kLmHead, "lm_head", 64, 100, true);
}

TEST(BaseShapeTest, NamesModulesAndWidths) {
  const auto config = Read(With(Qwen2(), "tie_word_embeddings", true));
  ASSERT_THAT(config, IsOk());
  const BaseShape shape = BaseShapeOf(*config);
  EXPECT_EQ(shape.num_layers, 3);
  EXPECT_TRUE(shape.tied_embeddings);
  ASSERT_EQ(shape.sites.size(), 12u);
  const SiteShape* k = shape.Find(Site::kKProj);
  EXPECT_EQ(k->module_path, "model.layers.{}.self_attn.k_proj");
  EXPECT_EQ(k->in_features, 64);
  EXPECT_EQ(k->out_features, 32);
  EXPECT_TRUE(k->per_layer && k->has_bias);
  const SiteShape* down = shape.Find(Site::kDownProj);
  EXPECT_EQ(down->module_path, "model.layers.{}.mlp.down_proj");
  EXPECT_EQ(down->in_features, 96);
  EXPECT_FALSE(down->has_bias);
  const SiteShape* embed = shape.Find(Site::kEmbedTokens);
  EXPECT_EQ(embed->module_path, "model.embed_tokens");
  EXPECT_EQ(embed->in_features, 100);
  EXPECT_EQ(embed->out_features, 64);
  EXPECT_FALSE(embed->per_layer);
  const SiteShape* head = shape.Find(Site::kLmHead);
  EXPECT_EQ(head->module_path, "lm_head");
  EXPECT_EQ(head->in_features, 64);
  EXPECT_EQ(head->out_features, 100);
}

}  // namespace
}  // namespace lorad
