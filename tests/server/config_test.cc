#include "server/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include "tests/support/source_dir.h"

namespace lorad {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::Pair;

std::variant<ServerConfig, ConfigExit> Parse(std::vector<const char*> flags) {
  flags.insert(flags.begin(), "lorad");
  return ParseConfig(static_cast<int>(flags.size()), flags.data());
}

ServerConfig Parsed(std::vector<const char*> flags) {
  auto outcome = Parse(std::move(flags));
  if (const auto* exit = std::get_if<ConfigExit>(&outcome)) ADD_FAILURE() << exit->text;
  return std::holds_alternative<ServerConfig>(outcome) ? std::get<ServerConfig>(outcome) : ServerConfig{};
}

ConfigExit Refused(std::vector<const char*> flags) {
  auto outcome = Parse(std::move(flags));
  EXPECT_TRUE(std::holds_alternative<ConfigExit>(outcome));
  return std::holds_alternative<ConfigExit>(outcome) ? std::get<ConfigExit>(outcome) : ConfigExit{};
}

TEST(ConfigTest, EveryFlagTakesItsValue) {
  const ServerConfig config = Parsed({"--model=/m",
                                      "--listen=0.0.0.0:1",
                                      "--metrics=",
                                      "--device=cpu",
                                      "--dtype=bfloat16",
                                      "--quantize=int4",
                                      "--adapter=a=/x",
                                      "--adapter=b/c=/y=z",
                                      "--adapter-dir=/d",
                                      "--adapter-root=/r",
                                      "--memory-bytes=4GiB",
                                      "--host-adapter-bytes=0",
                                      "--max-batch-tokens=7",
                                      "--max-sequences=8",
                                      "--queue-limit=9",
                                      "--threads=3",
                                      "--drain-seconds=0",
                                      "--prefix-cache=off",
                                      "--state-dir=/s",
                                      "--log-level=error",
                                      "--order=fair_share",
                                      "--adapter-weight=gold/a=4",
                                      "--adapter-weight=(base)=0.5",
                                      "--input-token-price=0.5",
                                      "--output-token-price=3",
                                      "--max-running-per-adapter=5",
                                      "--max-waiting-per-adapter=6",
                                      "--slo-first-token=2.5",
                                      "--cuda-graphs=off",
                                      "--fast-forms=off",
                                      "--async-scheduling=off"});
  EXPECT_EQ(config.model_dir, "/m");
  EXPECT_EQ(config.listen, "0.0.0.0:1");
  EXPECT_EQ(config.metrics, "");
  EXPECT_EQ(config.drain_seconds, 0);
  EXPECT_EQ(config.dtype, DTypeChoice::kBFloat16);
  EXPECT_EQ(config.quantization, Quantization::kInt4);
  ASSERT_EQ(config.adapters.size(), 2u);
  EXPECT_EQ(config.adapters[1].name, "b/c");
  EXPECT_EQ(config.adapters[1].path, "/y=z");
  EXPECT_EQ(config.adapter_dir, "/d");
  EXPECT_EQ(config.adapter_root, "/r");
  EXPECT_EQ(config.memory_bytes, int64_t{4} << 30);
  EXPECT_EQ(config.host_adapter_bytes, 0);
  EXPECT_EQ(config.max_batch_tokens, 7);
  EXPECT_EQ(config.max_sequences, 8);
  EXPECT_EQ(config.queue_limit, 9);
  EXPECT_EQ(config.threads, 3);
  EXPECT_FALSE(config.prefix_cache);
  EXPECT_FALSE(config.cuda_graphs);
  EXPECT_FALSE(config.fast_forms);
  EXPECT_FALSE(config.async_scheduling);
  EXPECT_EQ(config.state_dir, "/s");
  EXPECT_EQ(config.log_level, LogLevel::kError);
  EXPECT_EQ(config.order, "fair_share");
  EXPECT_THAT(config.prices.weights, ElementsAre(Pair("(base)", 0.5), Pair("gold/a", 4.0)));
  EXPECT_EQ(config.prices.input_token, 0.5);
  EXPECT_EQ(config.prices.output_token, 3.0);
  EXPECT_EQ(config.max_running_per_adapter, 5);
  EXPECT_EQ(config.max_waiting_per_adapter, 6);
  EXPECT_EQ(config.slo_first_token_us, 2'500'000);
}

// A file that is gone with the test.
class ConfigFile {
 public:
  explicit ConfigFile(const std::string& text) : path_(::testing::TempDir() + "lorad_config_test.toml") {
    std::ofstream(path_) << text;
    flag_ = "--config=" + path_;
  }
  ~ConfigFile() { std::remove(path_.c_str()); }
  const char* flag() const { return flag_.c_str(); }

 private:
  const std::string path_;
  std::string flag_;
};

TEST(ConfigTest, AFileHoldsFlagsAndTheCommandLineWins) {
  const ConfigFile file(
      "# a comment\n"
      "model = \"/m\"\n"
      "memory-bytes = \"4GiB\"\n"
      "max-sequences = 8\n"
      "adapter = [\"a=/x\", \"b/c=/y=z\"]\n");
  const ServerConfig config = Parsed({file.flag(), "--max-sequences=9"});
  EXPECT_EQ(config.model_dir, "/m");
  EXPECT_EQ(config.memory_bytes, int64_t{4} << 30);
  EXPECT_EQ(config.max_sequences, 9);
  ASSERT_EQ(config.adapters.size(), 2u);
  EXPECT_EQ(config.adapters[0].name, "a");
  EXPECT_EQ(config.adapters[1].path, "/y=z");
}

TEST(ConfigTest, AFileIsCheckedLikeTheCommandLine) {
  EXPECT_THAT(Refused({ConfigFile("model = \"/m\"\nmax-sequences = 0\n").flag()}).text,
              HasSubstr("--max-sequences: 0; limit: 1 to"));
  EXPECT_THAT(Refused({ConfigFile("model = \"/m\"\nmax-sequence = 8\n").flag()}).text, HasSubstr("max-sequence"));
  EXPECT_THAT(Refused({"--config=/nowhere.toml", "--model=/m"}).text, HasSubstr("/nowhere.toml"));
}

ServerConfig OfDeploy(const std::string& file) {
  const std::string flag = "--config=" + SourceDir() + "/deploy/" + file;
  return Parsed({flag.c_str()});
}

TEST(ConfigTest, TheConfigurationsOfDeployAreValid) {
  for (const char* file :
       {"lorad.toml", "container/lorad.toml", "kubernetes/base/lorad.toml", "kubernetes/gpu/lorad.toml"})
    EXPECT_FALSE(OfDeploy(file).model_dir.empty()) << file;
}

TEST(ConfigTest, APodsDeviceIsSaidAndItsPoolIsLeftToTheDevice) {
  EXPECT_EQ(OfDeploy("kubernetes/base/lorad.toml").device, DeviceChoice::kCpu);
  const ServerConfig gpu = OfDeploy("kubernetes/gpu/lorad.toml");
  EXPECT_EQ(gpu.device, DeviceChoice::kCuda);
  EXPECT_FALSE(gpu.memory_bytes.has_value());
  EXPECT_EQ(gpu.host_adapter_bytes, int64_t{8} << 30);
}

TEST(ConfigTest, WhatIsWrongIsNamedWithItsLimit) {
  EXPECT_THAT(Refused({}).text, HasSubstr("--model"));
  EXPECT_THAT(Refused({"--model=/m", "--nonsense=1"}).text, HasSubstr("nonsense"));
  EXPECT_THAT(Refused({"--model=/m", "--listen=here"}).text, HasSubstr("--listen: here; limit: HOST:PORT"));
  EXPECT_THAT(Refused({"--model=/m", "--listen=h:70000"}).text, HasSubstr("65535"));
  EXPECT_THAT(Refused({"--model=/m", "--max-sequences=0"}).text, HasSubstr("--max-sequences: 0; limit: 1 to"));
  EXPECT_THAT(Refused({"--model=/m", "--dtype=int8"}).text, HasSubstr("--dtype: int8; limit: auto, float32"));
  EXPECT_THAT(Refused({"--model=/m", "--quantize=int3"}).text,
              HasSubstr("--quantize: int3; limit: none, int8, int4, fp8; "));
  EXPECT_THAT(Refused({"--model=/m", "--adapter=sql"}).text, HasSubstr("NAME=PATH"));
  EXPECT_THAT(Refused({"--model=/m", "--adapter=a=/x", "--adapter=a=/y"}).text, HasSubstr("each name once"));
  EXPECT_THAT(Refused({"--model=/m", "--device=tpu"}).text, HasSubstr("--device: tpu; limit: auto, cpu, cuda"));
  EXPECT_THAT(Refused({"--model=/m", "--memory-bytes=4QiB"}).text, HasSubstr("--memory-bytes: 4QiB"));
  EXPECT_THAT(Refused({"--model=/m", "--memory-bytes=1K"}).text, HasSubstr("at least 1MiB"));
  EXPECT_THAT(Refused({"--model=/m", "--host-adapter-bytes=-1"}).text,
              HasSubstr("--host-adapter-bytes: -1; limit: a number with K, M, G, T"));
  EXPECT_THAT(Refused({"--model=/m", "--prefix-cache=maybe"}).text, HasSubstr("--prefix-cache: maybe; limit: on, off"));
  EXPECT_EQ(Refused({"--model=/m", "--threads=0"}).code, 2);
  EXPECT_THAT(Refused({"--model=/m", "--cuda-graphs=1"}).text, HasSubstr("--cuda-graphs: 1; limit: on, off"));
  EXPECT_THAT(Refused({"--model=/m", "--fast-forms=1"}).text, HasSubstr("--fast-forms: 1; limit: on, off"));
  EXPECT_THAT(Refused({"--model=/m", "--max-connection-age=-1"}).text,
              HasSubstr("--max-connection-age: -1; limit: 0 to"));
  EXPECT_THAT(Refused({"--model=/m", "--order=lottery"}).text, HasSubstr("--order: lottery; limit: fcfs, fair_share"));
  EXPECT_THAT(Refused({"--model=/m", "--adapter-weight=a"}).text, HasSubstr("NAME=WEIGHT"));
  EXPECT_THAT(Refused({"--model=/m", "--adapter-weight=a=0"}).text, HasSubstr("--adapter-weight: 0; limit: 0.001 to"));
  EXPECT_THAT(Refused({"--model=/m", "--adapter-weight=a=nan"}).text, HasSubstr("--adapter-weight: nan; limit"));
  EXPECT_THAT(Refused({"--model=/m", "--adapter-weight=../a=1"}).text, HasSubstr("adapter name"));
  EXPECT_THAT(Refused({"--model=/m", "--adapter-weight=a=1", "--adapter-weight=a=2"}).text,
              HasSubstr("each name once"));
  EXPECT_THAT(Refused({"--model=/m", "--max-running-per-adapter=-1"}).text, HasSubstr("--max-running-per-adapter: -1"));
}

TEST(ConfigTest, AFlagThatIsNotKnownIsToldWithTheOneThatWasMeant) {
  EXPECT_THAT(Refused({"--model=/m", "--max-sequence=3"}).text,
              HasSubstr("flag: --max-sequence=3; not known; did you mean --max-sequences?"));
  EXPECT_THAT(Refused({"--model=/m", "--adaptor-dir=/a"}).text, HasSubstr("did you mean --adapter-dir?"));
  EXPECT_THAT(Refused({"--model=/m", "--tensor-parallel-size=2"}).text, Not(HasSubstr("did you mean")));
  EXPECT_THAT(Refused({"--model=/m", "--max-sequences=many"}).text,
              HasSubstr("--max-sequences = many; limit: a number"));
  EXPECT_THAT(Refused({ConfigFile("model = \"/m\"\nmax-sequence = 8\n").flag()}).text,
              HasSubstr("--config: max-sequence; not known; did you mean max-sequences?"));
  for (const char* flag : {"help", "version", "config"}) {
    const std::string line = std::string("model = \"/m\"\n") + flag + " = true\n";
    EXPECT_THAT(Refused({ConfigFile(line).flag()}).text,
                HasSubstr(std::string("--config: ") + flag + "; limit: a flag that sets something; give --" + flag +
                          " on the command line"));
  }
  EXPECT_THAT(Refused({"--config=/nowhere.toml", "--model=/m"}).text, HasSubstr("--config: /nowhere.toml"));
  EXPECT_THAT(Refused({"/models/llama"}).text, HasSubstr("--model is required; not a flag: /models/llama"));
}

TEST(ConfigTest, AFlagOfVllmsIsToldWithWhatStandsHereForIt) {
  EXPECT_THAT(Refused({"--model=/m", "--enforce-eager"}).text,
              HasSubstr("flag: --enforce-eager; not known; vLLM's; here: --cuda-graphs=off"));
  EXPECT_THAT(Refused({"--model=/m", "--gpu-memory-utilization=0.9"}).text, HasSubstr("here: --memory-bytes"));
  EXPECT_THAT(Refused({"--model=/m", "--tensor-parallel-size", "2"}).text, HasSubstr("here: none: one device serves"));
  EXPECT_THAT(Refused({ConfigFile("model = \"/m\"\nport = 8000\n").flag()}).text,
              HasSubstr("--config: port; not known; vLLM's; here: --listen=HOST:PORT"));
}

TEST(ConfigTest, AFlagWithoutOrWithTwoValuesAndWhatIsNoFlagAreTold) {
  EXPECT_THAT(Refused({"--model"}).text, HasSubstr("--model: no value; limit: one; write --model=VALUE"));
  EXPECT_THAT(Refused({"--model="}).text, HasSubstr("--model: ; limit: a folder; "));
  EXPECT_THAT(Refused({"--model=/m", "--prefix-cache"}).text, HasSubstr("--prefix-cache: no value; limit: one; "));
  EXPECT_THAT(Refused({"--model=/m", "--model=/n"}).text,
              HasSubstr("--model: more than one value; limit: one; leave the others out"));
  EXPECT_THAT(Refused({"--model=/m", "extra"}).text, HasSubstr("not a flag: extra; limit: flags alone"));
}

TEST(ConfigTest, HelpTellsOfFlagsInGroupsTheModelFirst) {
  const std::string help = Refused({"--help"}).text;
  size_t last = 0;
  for (const char* part : {"The model:", "--model", "Adapters:", "--adapter-dir", "Memory:", "--memory-bytes",
                           "Who runs, and how many:", "--max-sequences", "Fine-tuning:", "--state-dir",
                           "On a CUDA device:", "--cuda-graphs", "The daemon:", "--listen"}) {
    const size_t found = help.find(part, last);
    ASSERT_NE(found, std::string::npos) << part << " in\n" << help;
    last = found;
  }
}

TEST(ConfigTest, HelpAndVersionEndWell) {
  EXPECT_EQ(Refused({"--help"}).code, 0);
  EXPECT_THAT(Refused({"--help"}).text, HasSubstr("--memory-bytes"));
  EXPECT_EQ(Refused({"--version"}).code, 0);
  EXPECT_THAT(Refused({"--version"}).text, HasSubstr("lorad "));
}

TEST(ConfigTest, WhatTheHostKeepsIsLeftOpenUnlessToldOtherwise) {
  EXPECT_EQ(Parsed({"--model=/m"}).host_adapter_bytes, std::nullopt);
  EXPECT_EQ(Parsed({"--model=/m", "--host-adapter-bytes=64MiB"}).host_adapter_bytes, 64 << 20);
}

TEST(ConfigTest, BytesHaveUnitsOf1024) {
  EXPECT_EQ(*ParseBytes("123"), 123);
  EXPECT_EQ(*ParseBytes("64K"), 65536);
  EXPECT_EQ(*ParseBytes("64kb"), 65536);
  EXPECT_EQ(*ParseBytes("2MiB"), 2 << 20);
  EXPECT_EQ(*ParseBytes("3T"), int64_t{3} << 40);
  for (const char* wrong : {"", "GiB", "-1", "1.5G", "9999999999G", "4 X", "0x10"})
    EXPECT_FALSE(ParseBytes(wrong).ok()) << wrong;
}

TEST(ConfigTest, DTypeFollowsTheCheckpointUnlessTold) {
  EXPECT_EQ(*ResolveDType(DTypeChoice::kAuto, DType::kBF16), DType::kBF16);
  EXPECT_EQ(*ResolveDType(DTypeChoice::kAuto, DType::kF16), DType::kF32);
  EXPECT_EQ(*ResolveDType(DTypeChoice::kAuto, DType::kF32), DType::kF32);
  EXPECT_EQ(*ResolveDType(DTypeChoice::kFloat32, DType::kBF16), DType::kF32);
  EXPECT_EQ(*ResolveDType(DTypeChoice::kBFloat16, DType::kF32), DType::kBF16);
  EXPECT_EQ(ResolveDType(DTypeChoice::kFloat16, DType::kF16).status().code(), absl::StatusCode::kUnimplemented);
}

TEST(LogTest, ValuesThatWouldBreakTheLineAreQuoted) {
  EXPECT_EQ(FormatLogLine(LogLevel::kInfo, "ready", {{"listen", "[::1]:5"}, {"n", 3}}),
            "info ready listen=[::1]:5 n=3");
  EXPECT_EQ(FormatLogLine(LogLevel::kInfo, "x", {{"why", "NVIDIA's \\'"}}), R"(info x why="NVIDIA's \\'")");
  EXPECT_EQ(FormatLogLine(LogLevel::kWarning, "x", {{"name", "a b\n\"c\""}, {"empty", ""}}),
            "warning x name=\"a b\\n\\\"c\\\"\" empty=\"\"");
}

}  // namespace
}  // namespace lorad
