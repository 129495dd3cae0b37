#include "server/tuning/intake.h"

#include <optional>

#include "absl/strings/str_cat.h"
#include "adapters/names.h"
#include "adapters/train/example_store.h"
#include "adapters/train/lines.h"
#include "model/base/file_source.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

ForEachLineFn LinesOf(const TuningData& data, const TextParts& parts) {
  return [&](const LineVisitor& visit) -> absl::Status {
    const LineVisitor visit_if_wanted = [&](int64_t number, std::string_view line) {
      const absl::Status wanted = parts.go_on();
      return wanted.ok() ? visit(number, line) : wanted;
    };
    if (data.path.empty()) return ForEachLine(data.lines, visit_if_wanted);
    const std::vector<std::string>& roots = parts.backend.adapter_roots;
    ASSIGN_OR_RETURN(const std::string path, JoinAdapterPath(data.path, roots));
    const std::unique_ptr<FileSource> files = roots.empty() ? LocalFiles() : RootedFiles(roots[0]);
    return ForEachLine(*files, path, visit_if_wanted);
  };
}

// Ends the reading without being an error.
absl::Status Enough() { return absl::CancelledError("enough was read"); }

// The format that is said, or that of the first line.
absl::StatusOr<ExampleFormat> FormatOf(const TuningData& data, const ForEachLineFn& lines) {
  if (!data.format.empty()) return ParseExampleFormat(data.format);
  absl::StatusOr<ExampleFormat> format = absl::InvalidArgumentError("dataset: examples: 0; limit: at least 1");
  const absl::Status status = lines([&](int64_t number, std::string_view line) {
    format = DetectExampleFormat(line);
    return Enough();
  });
  if (!status.ok() && status != Enough()) return status;
  return format;
}

absl::StatusOr<ExampleReader> ReaderOf(const TuningData& data, const TextParts& parts, const ForEachLineFn& lines) {
  const Backend& backend = parts.backend;
  ExampleReader::Options options;
  ASSIGN_OR_RETURN(options.format, FormatOf(data, lines));
  options.tokenizer = backend.tokenizer;
  options.chat_template = parts.chat_template;
  options.vocab_size = backend.model.vocab_size;
  options.max_length_tokens = data.max_length_tokens;
  options.train_on_inputs = data.train_on_inputs;
  const std::optional<int32_t> eos = backend.tokenizer == nullptr ? std::nullopt : backend.tokenizer->eos_token_id();
  if (eos.has_value()) {
    options.eos_token_id = *eos;
  } else if (!backend.model.eos_token_ids.empty()) {
    options.eos_token_id = backend.model.eos_token_ids[0];
  }
  return ExampleReader(options);
}

}  // namespace

absl::StatusOr<IntakeResult> TakeIn(const TuningData& data, const TextParts& parts, const std::string& prefix) {
  const ForEachLineFn lines = LinesOf(data, parts);
  ASSIGN_OR_RETURN(const ExampleReader reader, ReaderOf(data, parts, lines));
  ASSIGN_OR_RETURN(const std::unique_ptr<ExampleStoreWriter> writer, ExampleStoreWriter::Create(prefix));
  IntakeResult result;
  ASSIGN_OR_RETURN(result.summary,
                   ReadDataset(lines, reader, [&](const Example& example) { return writer->Append(example); }));
  ASSIGN_OR_RETURN(result.digest, writer->Finish());
  return result;
}

absl::StatusOr<v1::PreviewExampleResponse> PreviewLine(const TuningData& data, const TextParts& parts, int64_t line) {
  const ForEachLineFn lines = LinesOf(data, parts);
  ASSIGN_OR_RETURN(const ExampleReader reader, ReaderOf(data, parts, lines));
  std::optional<absl::StatusOr<ReadExampleResult>> read;
  const absl::Status status = lines([&](int64_t number, std::string_view text) {
    if (number < line) return absl::OkStatus();
    if (number == line) read = reader.Read(text);
    return Enough();
  });
  if (!status.ok() && status != Enough()) return status;
  if (!read.has_value()) {
    return absl::InvalidArgumentError(absl::StrCat("line: ", line, "; limit: a line of the data that is not blank"));
  }
  if (!read->ok()) {
    return absl::Status(read->status().code(), absl::StrCat("line ", line, ": ", read->status().message()));
  }
  const Example& example = (*read)->example;
  v1::PreviewExampleResponse response;
  for (size_t i = 0; i < example.token_ids.size(); ++i) {
    response.add_token_ids(static_cast<uint32_t>(example.token_ids[i]));
    // The first token is predicted from nothing, so it is never learnt.
    response.add_trained(i > 0 && example.labels[i] != kNotTrained);
    if (parts.backend.tokenizer == nullptr) continue;
    response.add_pieces(parts.backend.tokenizer->IdToPiece(example.token_ids[i]).value_or(""));
  }
  return response;
}

}  // namespace lorad
