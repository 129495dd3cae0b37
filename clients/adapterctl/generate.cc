#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <iterator>
#include <limits>
#include <memory>
#include <thread>

#include "clients/adapterctl/answer.h"
#include "clients/adapterctl/output.h"
#include "clients/adapterctl/verbs.h"

namespace lorad::adapterctl {
namespace {

struct GenerateFlags {
  v1::GenerateRequest request;
  std::string prompt;
  std::vector<uint32_t> token_ids;
  std::vector<std::string> logit_bias;  // ID=VALUE
  std::vector<std::string> adapters;    // NAME or NAME=SCALE
  std::vector<std::string> compare;
  double timeout_seconds = 0;
  bool usage = false;
};

// An option whose value goes straight into a proto field.
template <typename T>
void AddField(CLI::App* command, const std::string& name, std::function<void(T)> set, const std::string& help) {
  command->add_option_function<T>(
      name, [set](const T& value) { set(value); }, help);
}

void AddSampling(CLI::App* command, const std::shared_ptr<GenerateFlags>& flags) {
  v1::SamplingParams* sampling = flags->request.mutable_sampling();
  AddField<uint32_t>(
      command, "--max-tokens", [=](uint32_t v) { sampling->set_max_tokens(v); }, "Most tokens to make");
  AddField<uint32_t>(
      command, "--min-tokens", [=](uint32_t v) { sampling->set_min_tokens(v); }, "No end before so many");
  AddField<float>(
      command, "--temperature", [=](float v) { sampling->set_temperature(v); }, "0 is greedy");
  AddField<float>(
      command, "--top-p", [=](float v) { sampling->set_top_p(v); }, "Draw within this probability mass");
  AddField<uint32_t>(
      command, "--top-k", [=](uint32_t v) { sampling->set_top_k(v); }, "Draw among so many; 0 = all");
  AddField<float>(
      command, "--min-p", [=](float v) { sampling->set_min_p(v); }, "Leave out what is less likely than this share");
  AddField<float>(
      command, "--repetition-penalty", [=](float v) { sampling->set_repetition_penalty(v); }, "1 = none");
  AddField<float>(
      command, "--presence-penalty", [=](float v) { sampling->set_presence_penalty(v); }, "0 = none");
  AddField<float>(
      command, "--frequency-penalty", [=](float v) { sampling->set_frequency_penalty(v); }, "0 = none");
  AddField<uint64_t>(
      command, "--seed", [=](uint64_t v) { sampling->set_seed(v); }, "The same seed, the same draw");
  AddField<uint32_t>(
      command, "--n", [=](uint32_t v) { sampling->set_n(v); }, "So many answers");
  command
      ->add_option_function<std::vector<std::string>>(
          "--stop",
          [=](const std::vector<std::string>& v) {
            for (const auto& s : v) sampling->add_stop(s);
          },
          "End before this text; repeatable")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command
      ->add_option_function<std::vector<uint32_t>>(
          "--stop-token",
          [=](const std::vector<uint32_t>& v) {
            for (uint32_t id : v) sampling->add_stop_token_ids(id);
          },
          "End at this token id; repeatable")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command->add_option("--logit-bias", flags->logit_bias, "ID=VALUE, added to a token's logit; repeatable")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command->add_flag_callback(
      "--ignore-eos", [=] { sampling->set_ignore_eos(true); }, "Go on past the end of sequence");
}

void AddRequest(CLI::App* command, const std::shared_ptr<GenerateFlags>& flags) {
  v1::GenerateRequest* request = &flags->request;
  command->add_option("prompt", flags->prompt, "The prompt; - or nothing reads it from standard input");
  command->add_option("--token-ids", flags->token_ids, "Token ids instead of a prompt: 1,2,3")
      ->allow_extra_args(false)
      ->delimiter(',');
  // Not a vector: CLI11 2.1 takes the next argument for an empty value of one.
  command
      ->add_option_function<std::string>(
          "--adapter", [flags](const std::string& name) { flags->adapters.push_back(name); },
          "Its name, or NAME=SCALE; without it the base. Repeated: all of them together, in this order")
      ->trigger_on_parse();
  command->add_option("--compare", flags->compare, "Show the base and these adapters one under the other: a,b,c")
      ->allow_extra_args(false)
      ->delimiter(',');
  AddField<uint32_t>(
      command, "--logprobs", [=](uint32_t v) { request->set_logprobs(v); }, "Alternatives a token (json)");
  AddField<uint32_t>(
      command, "--prompt-logprobs", [=](uint32_t v) { request->set_prompt_logprobs(v); },
      "The same for the prompt (json)");
  AddField<int32_t>(
      command, "--priority", [=](int32_t v) { request->set_priority(v); }, "Lower is sooner");
  AddField<std::string>(
      command, "--request-id", [=](std::string v) { request->set_request_id(v); }, "A name for the logs");
  command->add_option("--timeout", flags->timeout_seconds, "Seconds after which to give up; 0 = never")
      ->check(CLI::NonNegativeNumber);
  command->add_flag("--usage", flags->usage, "Say on stderr how many tokens it took and why it ended");
}

std::string CompleteAdapters(GenerateFlags* flags) {
  if (!flags->compare.empty() && !flags->adapters.empty()) return "--compare and --adapter: only one of them";
  std::erase(flags->adapters, "");  // the base
  const bool alone = flags->adapters.size() == 1 && flags->adapters[0].find('=') == std::string::npos;
  if (alone) flags->request.set_adapter(flags->adapters[0]);
  for (size_t i = 0; !alone && i < flags->adapters.size(); ++i) {
    const std::string& text = flags->adapters[i];
    v1::WeightedAdapter* const adapter = flags->request.add_adapters();
    const size_t equals = text.find('=');
    adapter->set_name(text.substr(0, equals));
    if (equals == std::string::npos) continue;
    float scale = 0;
    char rest = 0;
    if (std::sscanf(text.c_str() + equals + 1, "%f%c", &scale, &rest) != 1) {
      return "--adapter: " + text + "; limit: NAME or NAME=SCALE, a number";
    }
    adapter->set_scale(scale);
  }
  return "";
}

// Fills in the prompt and what is not a plain value. An empty text: all is well.
std::string Complete(GenerateFlags* flags) {
  for (const std::string& text : flags->logit_bias) {
    unsigned id = 0;
    float value = 0;
    char rest = 0;
    if (std::sscanf(text.c_str(), "%u=%f%c", &id, &value, &rest) != 2)
      return "--logit-bias: " + text + "; limit: ID=VALUE";
    (*flags->request.mutable_sampling()->mutable_logit_bias())[id] = value;
  }
  if (const std::string wrong = CompleteAdapters(flags); !wrong.empty()) return wrong;
  if (!flags->token_ids.empty()) {
    if (!flags->prompt.empty()) return "a prompt and --token-ids: only one of them";
    for (const uint32_t id : flags->token_ids) flags->request.mutable_token_ids()->add_ids(id);
    return "";
  }
  if (flags->prompt.empty() || flags->prompt == "-") {
    if (isatty(STDIN_FILENO) != 0) return "no prompt: adapterctl generate \"…\", or pipe it in";
    flags->prompt.assign(std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>());
  }
  flags->request.set_text(flags->prompt);
  return "";
}

void PrintUsage(const Answer& answer) {
  for (const AnswerSequence& sequence : answer.sequences) {
    std::fprintf(stderr, "[%s] prompt %u, completion %u, cached %u tokens%s%s\n",
                 NameOf(sequence.finish_reason).c_str(), sequence.usage.prompt_tokens(),
                 sequence.usage.completion_tokens(), sequence.usage.cached_tokens(),
                 sequence.abort_detail.empty() ? "" : ": ", sequence.abort_detail.c_str());
  }
}

// An aborted sequence is a failure of the command, though the call ended well.
int ExitCodeOf(const Answer& answer, const Session& session) {
  if (!answer.status.ok()) return session.Fail(answer.status);
  for (const AnswerSequence& sequence : answer.sequences) {
    if (sequence.finish_reason == v1::FINISH_REASON_ABORT) {
      return session.Fail(grpc::Status(grpc::StatusCode::ABORTED, sequence.abort_detail));
    }
  }
  return kDone;
}

int RunOne(Session& session, const GenerateFlags& flags, const std::shared_ptr<grpc::Channel>& channel) {
  const bool stream = !session.json() && flags.request.sampling().n() <= 1;
  const Answer answer =
      Generate(channel, flags.request, flags.timeout_seconds, [stream](const v1::GenerateResponse& message) {
        if (!stream || message.text().empty()) return;
        std::fwrite(message.text().data(), 1, message.text().size(), stdout);
        std::fflush(stdout);
      });
  if (session.json()) {
    if (answer.status.ok()) PrintJson(ToJson(answer));
  } else if (stream) {
    if (!answer.sequences.empty()) std::printf("\n");
  } else {
    for (size_t i = 0; i < answer.sequences.size(); ++i) std::printf("[%zu] %s\n", i, answer.sequences[i].text.c_str());
  }
  std::fflush(stdout);  // before what goes to stderr
  if (flags.usage) PrintUsage(answer);
  return ExitCodeOf(answer, session);
}

// The base and the adapters named, all at once, so that the daemon answers them in one batch.
int RunCompare(Session& session, const GenerateFlags& flags, const std::shared_ptr<grpc::Channel>& channel) {
  std::vector<v1::GenerateRequest> requests = {flags.request};
  for (const std::string& adapter : flags.compare) {
    requests.push_back(flags.request);
    requests.back().set_adapter(adapter);
  }
  std::vector<Answer> answers(requests.size());
  std::vector<std::thread> threads;
  for (size_t i = 0; i < requests.size(); ++i) {
    threads.emplace_back([&, i] { answers[i] = Generate(channel, requests[i], flags.timeout_seconds, nullptr); });
  }
  for (std::thread& thread : threads) thread.join();

  int exit_code = kDone;
  nlohmann::ordered_json listed = nlohmann::ordered_json::array();
  std::vector<std::vector<std::string>> rows;
  for (const Answer& answer : answers) {
    if (const int code = ExitCodeOf(answer, session); code != kDone) exit_code = code;
    if (!answer.status.ok()) continue;
    listed.push_back(ToJson(answer));
    const std::string name = answer.adapter.empty() ? "(base)" : answer.adapter;
    for (const AnswerSequence& sequence : answer.sequences) rows.push_back({name, sequence.text});
  }
  if (session.json()) {
    PrintJson({{"answers", listed}});
  } else {
    PrintTable(rows);
  }
  return exit_code;
}

}  // namespace

Verb AddGenerate(CLI::App& app) {
  auto flags = std::make_shared<GenerateFlags>();
  CLI::App* command = app.add_subcommand("generate", "Let the base or an adapter write; streams to the terminal");
  AddRequest(command, flags);
  AddSampling(command, flags);

  return {command, [flags](Session& session) {
            if (const std::string wrong = Complete(flags.get()); !wrong.empty()) return session.FailUsage(wrong);
            const auto channel = session.Connect();
            if (!channel) return kUnreachable;
            return flags->compare.empty() ? RunOne(session, *flags, channel) : RunCompare(session, *flags, channel);
          }};
}

}  // namespace lorad::adapterctl
