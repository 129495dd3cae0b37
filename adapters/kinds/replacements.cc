#include "adapters/kinds/replacements.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "adapters/float_convert.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

constexpr int64_t kBlockElements = 1 << 16;
constexpr int64_t kMostOwnTokens = 1 << 20;

// The tokens whose rows in the file are not the base's.
class TableComparison final {
 public:
  TableComparison(FileSource& files, const std::string& path, const SafetensorsEntry& entry, const BaseTable& base)
      : files_(files), path_(path), entry_(entry), base_(base) {}

  absl::StatusOr<std::vector<int32_t>> Run() {
    const int64_t columns = base_.columns;
    const int64_t rows_at_once = std::max<int64_t>(1, kBlockElements / columns);
    const auto elements = static_cast<size_t>(rows_at_once * columns);
    of_file_.resize(elements * static_cast<size_t>(SizeBytes(entry_.dtype)));
    rounded_.resize(of_file_.size());
    a_.resize(elements);
    b_.resize(elements);
    for (int64_t row = 0; row < base_.rows; row += rows_at_once) {
      const int64_t rows = std::min(rows_at_once, base_.rows - row);
      RETURN_IF_ERROR(files_.ReadAt(path_, entry_.offset_bytes + row * RowBytes(), rows * RowBytes(), of_file_.data()));
      ToF32(base_.dtype, base_.data + row * columns * SizeBytes(base_.dtype), rows * columns, a_.data());
      FromF32(a_.data(), rows * columns, entry_.dtype, rounded_.data());
      CompareRows(row, rows);
    }
    return std::move(different_);
  }

 private:
  int64_t RowBytes() const { return base_.columns * SizeBytes(entry_.dtype); }

  void CompareRows(int64_t first, int64_t rows) {
    const auto row_bytes = static_cast<size_t>(RowBytes());
    if (std::memcmp(of_file_.data(), rounded_.data(), row_bytes * static_cast<size_t>(rows)) == 0) return;
    for (int64_t r = 0; r < rows; ++r) {
      const std::byte* const file = of_file_.data() + static_cast<size_t>(r) * row_bytes;
      const std::byte* const base = rounded_.data() + static_cast<size_t>(r) * row_bytes;
      if (std::memcmp(file, base, row_bytes) == 0) continue;
      // As numbers, so that 0 and -0 are equal.
      ToF32(entry_.dtype, file, base_.columns, a_.data());
      ToF32(entry_.dtype, base, base_.columns, b_.data());
      if (!std::equal(a_.begin(), a_.begin() + base_.columns, b_.begin())) {
        different_.push_back(static_cast<int32_t>(first + r));
      }
    }
  }

  FileSource& files_;
  const std::string& path_;
  const SafetensorsEntry& entry_;
  const BaseTable& base_;
  std::vector<std::byte> of_file_, rounded_;
  std::vector<float> a_, b_;
  std::vector<int32_t> different_;
};

class Finder final {
 public:
  Finder(FileSource& files, const SafetensorsIndex& index, const PeftTensors& tensors, const PeftLoraConfig& config,
         const BaseShape& base, const std::map<std::string, TargetedModule>& modules, const BaseTables& base_tables)
      : files_(files),
        index_(index),
        tensors_(tensors),
        config_(config),
        base_(base),
        modules_(modules),
        base_tables_(base_tables) {}

  absl::StatusOr<Replacements> Find() {
    for (const auto& [path, module] : tensors_.modules) {
      const TargetedModule& of_base = modules_.at(path);
      if (IsNorm(of_base.shape->site)) {
        if (module.table != nullptr || module.bias != nullptr) RETURN_IF_ERROR(AddNorm(path, module, of_base));
      } else if (module.table != nullptr) {
        RETURN_IF_ERROR(AddTable(path, *module.table, of_base));
      }
    }
    if (base_.tied_embeddings) RETURN_IF_ERROR(TieOriginals());
    for (const auto& [path, module] : tensors_.modules) {
      if (module.token_rows != nullptr) RETURN_IF_ERROR(AddTokens(path, *module.token_rows, modules_.at(path)));
    }
    RETURN_IF_ERROR(CheckTokensAreThere());
    if (base_.tied_embeddings) TieTokens();
    return std::move(found_);
  }

 private:
  absl::StatusOr<BaseTable> TableOf(const FileTensor& tensor, const TargetedModule& module, bool bias = false) const {
    if (base_tables_ == nullptr) {
      return absl::UnimplementedError(
          absl::StrCat(About(index_, tensor), "replaces part of the base, which cannot be compared here"));
    }
    return base_tables_({.site = module.shape->site, .layer = module.layer, .bias = bias});
  }

  absl::Status AddTable(const std::string& path, const FileTensor& tensor, const TargetedModule& module) {
    const SafetensorsEntry& entry = tensor.second;
    const std::string what = absl::StrCat(About(index_, tensor), "shape: ", ShapeText(entry.shape));
    if (!entry.strides.empty())
      return absl::UnimplementedError(absl::StrCat(what, "; a strided view; save it contiguous"));
    ASSIGN_OR_RETURN(const BaseTable table, TableOf(tensor, module));
    if (entry.shape.size() != 2 || entry.shape[1] != table.columns) {
      return absl::InvalidArgumentError(
          absl::StrCat(what, "; the base's ", path, ": [", table.rows, ", ", table.columns, "]"));
    }
    RETURN_IF_ERROR(CheckResized(what, path, entry.shape[0] - table.rows, module));
    ASSIGN_OR_RETURN(std::vector<int32_t> ids, TableComparison(files_, index_.path, entry, table).Run());
    for (int64_t own = table.rows; own < entry.shape[0]; ++own) ids.push_back(static_cast<int32_t>(own));
    if (ids.empty()) return absl::OkStatus();
    const auto rows = static_cast<int64_t>(ids.size());
    Replacement replacement{.weight = &tensor, .width = table.columns, .rows = rows, .whole_module = true};
    if (2 * rows > entry.shape[0]) {
      replacement.rows = entry.shape[0];  // as a whole it needs no list
    } else {
      replacement.in_weight.assign(ids.begin(), ids.end());
      replacement.ids = std::move(ids);
    }
    found_[path] = std::move(replacement);
    return absl::OkStatus();
  }

  // `more` rows than the base's table: the tokens of an enlarged vocabulary.
  absl::Status CheckResized(const std::string& what, const std::string& path, int64_t more,
                            const TargetedModule& module) const {
    if (more == 0) return absl::OkStatus();
    const char* const why = more < 0                 ? "a vocabulary smaller than the base's"
                            : more > kMostOwnTokens  ? "more tokens of its own than 1048576"
                            : module.shape->has_bias ? "a resized head that has a bias"
                                                     : nullptr;
    if (why == nullptr) return absl::OkStatus();
    return absl::UnimplementedError(
        absl::StrCat(what, "; rows of the base's ", path, ": ", base_.vocab_size, "; not supported: ", why));
  }

  // What modules_to_save takes away from a tied table is the other one's, unless that is in the file itself.
  absl::Status TieOriginals() {
    const std::string& embedding = base_.Find(Site::kEmbedTokens)->module_path;
    const std::string& head = base_.Find(Site::kLmHead)->module_path;
    for (const auto& [path, other] : {std::pair(embedding, head), std::pair(head, embedding)}) {
      const auto found = tensors_.modules.find(path), of_other = tensors_.modules.find(other);
      if (found == tensors_.modules.end() || found->second.original == nullptr) continue;
      if (of_other != tensors_.modules.end() && of_other->second.table != nullptr) continue;
      RETURN_IF_ERROR(AddTable(other, *found->second.original, modules_.at(other)));
    }
    return absl::OkStatus();
  }

  // Of a tied head, which the config need not name, PEFT may save the embedding's once more.
  const std::vector<int32_t>* TokensOf(const std::string& path, const TargetedModule& module) const {
    const bool is_embedding = module.shape->site == Site::kEmbedTokens;
    const std::vector<int32_t>* const tokens = config_.TokensOf(path, is_embedding);
    if (tokens != nullptr || is_embedding || !base_.tied_embeddings) return tokens;
    return config_.TokensOf(base_.Find(Site::kEmbedTokens)->module_path, /*is_embedding=*/true);
  }

  // The rows of `tensor` in the place of those that the table has: the base's, or one of the file's.
  absl::Status AddTokens(const std::string& path, const FileTensor& tensor, const TargetedModule& module) {
    const std::vector<int32_t>* tokens = TokensOf(path, module);
    const std::vector<int64_t>& shape = tensor.second.shape;
    const std::string what = absl::StrCat(About(index_, tensor), "shape: ", ShapeText(shape));
    if (tokens == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat(About(index_, tensor), "the config's trainable_token_indices do not name this module"));
    }
    const bool is_head = module.shape->site == Site::kLmHead;
    if (module.shape->has_bias) {
      return absl::UnimplementedError(absl::StrCat(About(index_, tensor), "trainable_token_indices of the base's ",
                                                   path, ", which has a bias: PEFT leaves the bias out"));
    }
    const auto table = found_.find(path);
    const int64_t rows_of_table = table == found_.end() ? 0 : RowsOf(*table->second.weight);
    // Those of an enlarged vocabulary come one after the other (own_vocabulary.h).
    const int64_t vocabulary = std::max(rows_of_table, base_.vocab_size + static_cast<int64_t>(tokens->size()));
    const int64_t width = is_head ? module.shape->in_features : module.shape->out_features;
    if (shape.size() != 2 || shape[0] != static_cast<int64_t>(tokens->size()) || shape[1] != width) {
      return absl::InvalidArgumentError(absl::StrCat(what, "; wanted: [", tokens->size(), ", ", width,
                                                     "], a row for each of trainable_token_indices"));
    }
    if (!tensor.second.strides.empty()) {
      return absl::UnimplementedError(absl::StrCat(what, "; a strided view; save it contiguous"));
    }
    if (tensors_.modules.at(path).has_pair() || config_.Saves(path)) {
      return absl::UnimplementedError(
          absl::StrCat(About(index_, tensor), "trainable_token_indices and LoRA or modules_to_save on one module"));
    }
    Replacement replacement{.weight = &tensor, .width = width, .rows = shape[0]};
    replacement.in_weight.resize(tokens->size());
    std::iota(replacement.in_weight.begin(), replacement.in_weight.end(), 0);
    std::sort(replacement.in_weight.begin(), replacement.in_weight.end(),
              [&](int64_t x, int64_t y) { return (*tokens)[x] < (*tokens)[y]; });
    for (const int64_t row : replacement.in_weight) {
      const int32_t token = (*tokens)[static_cast<size_t>(row)];
      const bool twice = !replacement.ids.empty() && replacement.ids.back() == token;
      if (token < 0 || token >= vocabulary || twice) {
        return absl::InvalidArgumentError(absl::StrCat("adapter_config.json: trainable_token_indices: ", token,
                                                       twice ? " twice" : "", "; limit: 0..", base_.vocab_size - 1,
                                                       ", and from there one after the other"));
      }
      replacement.ids.push_back(token);
    }
    if (!is_head) embedding_tokens_ = replacement;
    if (table != found_.end()) {
      PutOver(replacement, &table->second);
    } else {
      found_[path] = std::move(replacement);
    }
    return absl::OkStatus();
  }

  static int64_t RowsOf(const FileTensor& tensor) { return tensor.second.shape[0]; }

  // `tokens` are of tokens one by one; `table` has some rows of a table, or all.
  static void PutOver(const Replacement& tokens, Replacement* table) {
    std::map<int32_t, int64_t> rows;
    for (int64_t i = 0; i < table->rows; ++i) {
      const auto at = static_cast<size_t>(i);
      rows[table->ids.empty() ? static_cast<int32_t>(i) : table->ids[at]] =
          table->ids.empty() ? i : table->in_weight[at];
    }
    for (size_t i = 0; i < tokens.ids.size(); ++i) rows[tokens.ids[i]] = -1 - tokens.in_weight[i];
    table->tokens = tokens.weight;
    table->rows = static_cast<int64_t>(rows.size());
    table->ids.clear();
    table->in_weight.clear();
    for (const auto& [token, row] : rows) {
      table->ids.push_back(token);
      table->in_weight.push_back(row);
    }
  }

  // A norm's two vectors come as one replacement: what the file does not have is the base's.
  absl::Status AddNorm(const std::string& path, const ModuleTensors& module, const TargetedModule& of_base) {
    bool differs = false;
    for (const FileTensor* tensor : {module.table, module.bias}) {
      if (tensor == nullptr) continue;
      ASSIGN_OR_RETURN(const BaseTable base, TableOf(*tensor, of_base, tensor == module.bias));
      const SafetensorsEntry& entry = tensor->second;
      if (entry.shape != std::vector<int64_t>{of_base.shape->out_features}) {
        return absl::InvalidArgumentError(absl::StrCat(About(index_, *tensor), "shape: ", ShapeText(entry.shape),
                                                       "; the base's: [", of_base.shape->out_features, "]"));
      }
      const BaseTable as_row{.dtype = base.dtype, .rows = 1, .columns = base.rows, .data = base.data};
      ASSIGN_OR_RETURN(const std::vector<int32_t> ids, TableComparison(files_, index_.path, entry, as_row).Run());
      differs |= !ids.empty();
    }
    if (!differs) return absl::OkStatus();
    found_[path] = {.weight = module.table,
                    .bias = module.bias,
                    .width = of_base.shape->out_features,
                    .rows = of_base.shape->has_bias ? 2 : 1};
    return absl::OkStatus();
  }

  absl::Status CheckTokensAreThere() const {
    for (const auto& [path, module] : modules_) {
      const Site site = module.shape->site;
      if (site != Site::kEmbedTokens && site != Site::kLmHead) continue;
      const std::vector<int32_t>* tokens = config_.TokensOf(path, site == Site::kEmbedTokens);
      // Of a tied head PEFT saves nothing where the embedding's tokens are the same.
      if (tokens == nullptr || (site == Site::kLmHead && base_.tied_embeddings)) continue;
      const auto found = tensors_.modules.find(path);
      if (found == tensors_.modules.end() || found->second.token_rows == nullptr) {
        return absl::DataLossError(absl::StrCat(index_.path, ": no trainable_tokens_delta for ", path,
                                                ", which trainable_token_indices in adapter_config.json names"));
      }
    }
    return absl::OkStatus();
  }

  // A tied head reads the embedding's new rows, unless it has tokens of its own.
  void TieTokens() {
    const std::string& embedding = base_.Find(Site::kEmbedTokens)->module_path;
    const std::string& head = base_.Find(Site::kLmHead)->module_path;
    const auto found = tensors_.modules.find(embedding);
    if (found == tensors_.modules.end() || found->second.token_rows == nullptr) return;
    const auto of_head = tensors_.modules.find(head);
    if (of_head != tensors_.modules.end() && of_head->second.token_rows != nullptr) return;
    if (const auto table = found_.find(head); table != found_.end()) return PutOver(embedding_tokens_, &table->second);
    found_[head] = found_.at(embedding);
  }

  FileSource& files_;
  const SafetensorsIndex& index_;
  const PeftTensors& tensors_;
  const PeftLoraConfig& config_;
  const BaseShape& base_;
  const std::map<std::string, TargetedModule>& modules_;
  const BaseTables& base_tables_;
  Replacements found_;
  Replacement embedding_tokens_;  // of it alone, whatever the table is
};

absl::StatusOr<HostTensor> ReadNorm(FileSource& files, const SafetensorsIndex& index, const Replacement& replacement,
                                    const TargetedModule& module, const BaseTables& base_tables) {
  std::vector<float> values(static_cast<size_t>(replacement.rows * replacement.width));
  for (int64_t part = 0; part < replacement.rows; ++part) {
    float* const to = values.data() + part * replacement.width;
    const FileTensor* tensor = part == 0 ? replacement.weight : replacement.bias;
    if (tensor == nullptr) {
      ASSIGN_OR_RETURN(const BaseTable base,
                       base_tables({.site = module.shape->site, .layer = module.layer, .bias = part == 1}));
      ToF32(base.dtype, base.data, replacement.width, to);
      continue;
    }
    const SafetensorsEntry& entry = tensor->second;
    std::vector<std::byte> bytes(static_cast<size_t>(entry.size_bytes));
    RETURN_IF_ERROR(ReadTensor(files, index.path, entry, bytes.data()));
    ToF32(entry.dtype, bytes.data(), replacement.width, to);
  }
  auto bytes = std::make_shared<std::vector<std::byte>>(values.size() * sizeof(float));
  std::memcpy(bytes->data(), values.data(), bytes->size());
  return HostTensor{.dtype = DType::kF32, .shape = {replacement.rows, replacement.width}, .bytes = std::move(bytes)};
}

// The row behind those of [row, last) that lie together with `row` in the file.
int64_t EndOfTogether(const Replacement& replacement, int64_t row, int64_t last) {
  const std::vector<int64_t>& in_weight = replacement.in_weight;
  if (in_weight.empty()) return last;
  const int64_t begin = in_weight[static_cast<size_t>(row)], step = begin < 0 ? -1 : 1;
  int64_t end = row + 1;
  while (end < last && in_weight[static_cast<size_t>(end)] == begin + step * (end - row)) ++end;
  return end;
}

// A table's rows, some of them from another tensor, which may have another type: both in f32 then.
absl::StatusOr<HostTensor> ReadMixedRows(FileSource& files, const SafetensorsIndex& index,
                                         const Replacement& replacement) {
  const SafetensorsEntry& table = replacement.weight->second;
  const SafetensorsEntry& tokens = replacement.tokens->second;
  const DType dtype = table.dtype == tokens.dtype ? table.dtype : DType::kF32;
  const int64_t row_bytes = replacement.width * SizeBytes(dtype);
  auto bytes = std::make_shared<std::vector<std::byte>>(static_cast<size_t>(replacement.rows * row_bytes));
  constexpr int64_t kRowsAtOnce = 256;
  const int64_t most_values = std::min(kRowsAtOnce, replacement.rows) * replacement.width;
  std::vector<std::byte> stored(static_cast<size_t>(most_values) * sizeof(float));
  std::vector<float> values(static_cast<size_t>(most_values));
  for (int64_t row = 0; row < replacement.rows;) {
    const int64_t place = replacement.in_weight[static_cast<size_t>(row)];
    const int64_t end = EndOfTogether(replacement, row, std::min(replacement.rows, row + kRowsAtOnce));
    const SafetensorsEntry& entry = place < 0 ? tokens : table;
    const int64_t stored_row_bytes = replacement.width * SizeBytes(entry.dtype);
    const int64_t begin = place < 0 ? -1 - place : place, count = (end - row) * replacement.width;
    RETURN_IF_ERROR(files.ReadAt(index.path, entry.offset_bytes + begin * stored_row_bytes,
                                 (end - row) * stored_row_bytes, stored.data()));
    ToF32(entry.dtype, stored.data(), count, values.data());
    FromF32(values.data(), count, dtype, bytes->data() + row * row_bytes);
    row = end;
  }
  return HostTensor{.dtype = dtype, .shape = {replacement.rows, replacement.width}, .bytes = std::move(bytes)};
}

}  // namespace

absl::StatusOr<Replacements> FindReplacements(FileSource& files, const SafetensorsIndex& index,
                                              const PeftTensors& tensors, const PeftLoraConfig& config,
                                              const BaseShape& base,
                                              const std::map<std::string, TargetedModule>& modules,
                                              const BaseTables& base_tables) {
  return Finder(files, index, tensors, config, base, modules, base_tables).Find();
}

absl::StatusOr<HostTensor> ReadReplacement(FileSource& files, const SafetensorsIndex& index,
                                           const Replacement& replacement, const TargetedModule& module,
                                           const BaseTables& base_tables) {
  if (IsNorm(module.shape->site)) return ReadNorm(files, index, replacement, module, base_tables);
  if (replacement.tokens != nullptr) return ReadMixedRows(files, index, replacement);
  const SafetensorsEntry& entry = replacement.weight->second;
  const int64_t row_bytes = replacement.width * SizeBytes(entry.dtype);
  auto bytes = std::make_shared<std::vector<std::byte>>(static_cast<size_t>(replacement.rows * row_bytes));
  for (int64_t row = 0; row < replacement.rows;) {
    const int64_t begin = replacement.in_weight.empty() ? 0 : replacement.in_weight[static_cast<size_t>(row)];
    const int64_t end = EndOfTogether(replacement, row, replacement.rows);
    RETURN_IF_ERROR(files.ReadAt(index.path, entry.offset_bytes + begin * row_bytes, (end - row) * row_bytes,
                                 bytes->data() + row * row_bytes));
    row = end;
  }
  return HostTensor{.dtype = entry.dtype, .shape = {replacement.rows, replacement.width}, .bytes = std::move(bytes)};
}

}  // namespace lorad
