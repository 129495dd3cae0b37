#include "clients/adapterctl/train/data_flags.h"

#include <fstream>

namespace lorad::adapterctl {

std::shared_ptr<DataFlags> AddDataFlags(CLI::App* command, v1::DatasetSpec* dataset) {
  auto flags = std::make_shared<DataFlags>();
  command->add_option_function<std::string>(
      "--data", [dataset](const std::string& v) { dataset->set_path(v); }, "JSONL file, on the daemon's side");
  command->add_option("--inline", flags->file, "JSONL file here, sent with the request (up to 16 MiB)");
  command->add_option_function<std::string>(
      "--format", [dataset](const std::string& v) { dataset->set_format(v); },
      "chat, completion, alpaca, text, tokens; by default seen from the keys");
  command->add_option_function<uint32_t>(
      "--max-length", [dataset](const uint32_t& v) { dataset->set_max_length_tokens(v); },
      "Longer examples are cut to this many tokens (2048, or the model's limit)");
  command->add_flag_callback(
      "--train-on-inputs", [dataset] { dataset->set_train_on_inputs(true); }, "Learn the prompts too");
  return flags;
}

bool ReadInline(const DataFlags& flags, v1::DatasetSpec* dataset) {
  if (flags.file.empty()) return true;
  std::ifstream file(flags.file);
  for (std::string line; std::getline(file, line);) dataset->add_lines(line);
  return file.eof();
}

}  // namespace lorad::adapterctl
