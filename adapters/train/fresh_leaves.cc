#include "adapters/train/fresh_leaves.h"

#include <algorithm>
#include <cmath>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/div.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/sqrt.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include "model/base/guarded.h"
#include "model/base/status_macros.h"
#include "model/weights.h"

namespace lorad {
namespace {

const at::TensorOptions kLeafOptions = at::TensorOptions().dtype(at::kFloat);

at::Tensor FreshA(const TrainConfig& config, int64_t rank, int64_t in, uint64_t seed) {
  at::Tensor a = at::empty({rank, in}, kLeafOptions);
  at::Generator generator = at::detail::createCPUGenerator(seed);
  if (config.init == LeafInit::kGaussian) return a.normal_(0.0, 1.0 / static_cast<double>(rank), generator);
  const double bound = 1.0 / std::sqrt(static_cast<double>(in));
  return a.uniform_(-bound, bound, generator);
}

at::Tensor NormalB(int64_t out, int64_t rank, uint64_t seed) {
  return at::empty({out, rank}, kLeafOptions).normal_(0.0, 1.0, at::detail::createCPUGenerator(seed));
}

// Source: peft 0.21.2, pissa_init and olora_init of tuners/lora/layer.py. weight [out, in] f32
void BeginFromWeight(LeafInit init, const at::Tensor& weight, int64_t rank, LeafModule* module) {
  if (init == LeafInit::kOlora) {
    const auto [q, r] = at::linalg_qr(weight);
    module->b = q.narrow(1, 0, rank).contiguous();
    module->a = r.narrow(0, 0, rank).contiguous();
  } else {
    const auto [u, s, vh] = at::linalg_svd(weight, /*full_matrices=*/false);
    const at::Tensor root = at::sqrt(at::div(s.narrow(0, 0, rank), module->scale));
    module->b = at::mul(u.narrow(1, 0, rank), root).contiguous();
    module->a = at::mul(vh.narrow(0, 0, rank), root.unsqueeze(1)).contiguous();
  }
}

at::Tensor WeightOf(const BaseTable& table) {
  void* data = const_cast<std::byte*>(table.data);  // LibTorch has no const tensors; nothing writes it.
  return at::from_blob(
      data, {table.rows, table.columns}, [owner = table.owner](void*) {},
      at::TensorOptions().dtype(ToScalarType(table.dtype)));
}

// LeafModule::base_weight; an embedding's is W^T.
std::function<at::Tensor(int64_t first_row, int64_t count)> RowsOfBase(const BaseTables& base_tables,
                                                                       const BaseTableName& name) {
  return [base_tables, name](int64_t first_row, int64_t count) {
    if (name.site == Site::kEmbedTokens) return WeightOf(base_tables(name).value()).t().narrow(0, first_row, count);
    BaseTableName rows = name;
    rows.first_row = first_row;
    rows.row_count = count;
    return WeightOf(base_tables(rows).value());
  };
}

// [out] f32, of weight [out, in]
at::Tensor RowNorms(const at::Tensor& weight) {
  return at::linalg_vector_norm(weight.to(at::kFloat), 2, at::IntArrayRef{1});
}

at::Tensor AsLeaf(const at::Tensor& of_base) {
  return of_base.to(at::kFloat, /*non_blocking=*/false, /*copy=*/true).contiguous().set_requires_grad(true);
}

absl::Status AddPair(const TargetedModule& target, const TrainConfig& config, uint64_t seed,
                     const BaseTables& base_tables, LeafModule* module) {
  const int64_t in = target.shape->in_features, out = target.shape->out_features;
  const bool embedding = module->site == Site::kEmbedTokens;
  // As peft, an embedding never begins from its weights.
  const bool from_weight = TakesOffBase(config.init) && !embedding;
  if (config.adapter.use_dora || from_weight) {
    const BaseTableName name = {.site = module->site, .layer = module->layer};
    RETURN_IF_ERROR(base_tables(name).status());
    module->base_weight = RowsOfBase(base_tables, name);
  }
  if (from_weight && config.begins_from_state) {
    module->a = at::zeros({target.rank, in}, kLeafOptions);
    module->b = at::zeros({out, target.rank}, kLeafOptions);
  } else if (from_weight) {
    BeginFromWeight(config.init, module->base_weight(0, out).to(at::kFloat), target.rank, module);
  } else if (embedding) {  // As peft: the other way round.
    module->a = at::zeros({target.rank, in}, kLeafOptions);
    module->b = NormalB(out, target.rank, seed);
  } else {
    module->a = FreshA(config, target.rank, in, seed);
    module->b = at::zeros({out, target.rank}, kLeafOptions);
  }
  if (TakesOffBase(config.init)) {  // An embedding's takes nothing off, but all are saved alike.
    module->initial_a = module->a.clone();
    module->initial_b = module->b.clone();
  }
  if (config.adapter.use_dora) {
    module->magnitude = RowNorms(module->base_weight(0, out)).set_requires_grad(true);
  }
  module->a.set_requires_grad(true);
  module->b.set_requires_grad(true);
  return absl::OkStatus();
}

absl::Status AddCopies(const TrainedModule& trained, const BaseTables& base_tables, LeafModule* module) {
  if (trained.bias) {
    ASSIGN_OR_RETURN(const BaseTable bias, base_tables({.site = module->site, .layer = module->layer, .bias = true}));
    module->bias = AsLeaf(WeightOf(bias).flatten());
  }
  const bool has_rows = !trained.tokens.empty() && !trained.tokens_are_tied;
  if (!trained.weight && !has_rows) return absl::OkStatus();
  ASSIGN_OR_RETURN(const BaseTable table, base_tables({.site = module->site, .layer = module->layer}));
  const at::Tensor of_base = IsNorm(module->site) ? WeightOf(table).flatten() : WeightOf(table);
  if (trained.weight) module->weight = AsLeaf(of_base);
  if (has_rows) {
    module->token_ids = at::tensor(std::vector<int64_t>(trained.tokens.begin(), trained.tokens.end()));
    module->token_rows = AsLeaf(at::index_select(of_base, 0, module->token_ids));
  }
  return absl::OkStatus();
}

// Of an embedding: which row of what is trained of it is the padding token's.
int64_t PaddingRowOf(const TrainedModule& trained, int32_t padding_token) {
  if (trained.module.shape->site != Site::kEmbedTokens || padding_token < 0) return -1;
  if (trained.tokens.empty()) return padding_token;
  const auto found = std::find(trained.tokens.begin(), trained.tokens.end(), padding_token);
  return found == trained.tokens.end() ? -1 : found - trained.tokens.begin();
}

}  // namespace

absl::Status AddMagnitude(const BaseTables& base_tables, LeafModule* module) {
  const BaseTableName name = {.site = module->site, .layer = module->layer};
  RETURN_IF_ERROR(base_tables(name).status());
  module->base_weight = RowsOfBase(base_tables, name);
  module->magnitude = RowNorms(module->base_weight(0, module->b.size(0))).set_requires_grad(true);
  return absl::OkStatus();
}

absl::StatusOr<LeafModule> FreshLeaves(const std::string& path, const TrainedModule& trained, const TrainConfig& config,
                                       uint64_t seed, const BaseTables& base_tables) {
  LeafModule module;
  module.path = path;
  module.site = trained.module.shape->site;
  module.layer = trained.module.layer;
  module.scale = trained.module.scale;
  module.padding_row = PaddingRowOf(trained, config.padding_token);
  const absl::Status status = Guarded([&]() -> absl::Status {
    if (trained.pair) RETURN_IF_ERROR(AddPair(trained.module, config, seed, base_tables, &module));
    return AddCopies(trained, base_tables, &module);
  });
  RETURN_IF_ERROR(status);
  return module;
}

}  // namespace lorad
