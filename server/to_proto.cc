#include "server/to_proto.h"

#include <cstddef>
#include <cstdint>
#include <string>

#include "server/version.h"

namespace lorad {
namespace {

// gRPC takes 8 KiB of trailing metadata, in which a byte may take three.
constexpr size_t kMaxStatusBytes = 2000;

v1::AdapterState ToProto(AdapterState state) {
  switch (state) {
    case AdapterState::kLoading:
      return v1::ADAPTER_STATE_LOADING;
    case AdapterState::kHost:
      return v1::ADAPTER_STATE_HOST;
    case AdapterState::kResident:
      return v1::ADAPTER_STATE_RESIDENT;
    case AdapterState::kDraining:
      return v1::ADAPTER_STATE_DRAINING;
    case AdapterState::kFailed:
      return v1::ADAPTER_STATE_FAILED;
    case AdapterState::kUnknown:
    case AdapterState::kGone:
      break;
  }
  return v1::ADAPTER_STATE_UNSPECIFIED;
}

}  // namespace

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  std::string message(status.message().data(), status.message().size());
  if (message.size() > kMaxStatusBytes) {
    size_t end = kMaxStatusBytes;
    while (end > 0 && (static_cast<unsigned char>(message[end]) & 0xC0) == 0x80) --end;  // not inside a character
    message.resize(end);
    message += "…";
  }
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), message);
}

v1::Adapter ToProto(const AdapterInfo& info) {
  v1::Adapter out;
  out.set_name(info.name);
  out.set_path(info.path);
  out.set_kind(info.kind);
  out.set_state(ToProto(info.state));
  out.set_rank_min(static_cast<uint32_t>(info.rank_min));
  out.set_rank_max(static_cast<uint32_t>(info.rank_max));
  out.set_bytes(static_cast<uint64_t>(info.bytes));
  out.set_pinned(info.pinned);
  out.set_digest(info.digest);
  out.mutable_targets()->Add(info.targets.begin(), info.targets.end());
  out.set_running_requests(static_cast<uint32_t>(info.running_requests));
  out.set_waiting_requests(static_cast<uint32_t>(info.waiting_requests));
  out.mutable_warnings()->Add(info.warnings.begin(), info.warnings.end());
  out.set_error(info.error);
  out.set_in_host_memory(info.warm);
  return out;
}

void PutExpertLoad(const AdapterInfo& info, v1::Adapter* out) {
  for (int64_t layer = 0; info.expert_load != nullptr && layer < info.expert_load->layers(); ++layer) {
    v1::ExpertLoad* const load = out->add_expert_load();
    load->set_layer(static_cast<uint32_t>(layer));
    for (const int64_t rows : info.expert_load->Rows(layer)) load->add_tokens(static_cast<uint64_t>(rows));
  }
}

v1::ModelInfo ToProto(const ModelFacts& facts) {
  v1::ModelInfo out;
  out.set_name(facts.name);
  out.set_architecture(facts.architecture);
  out.set_digest(facts.digest);
  out.set_dtype(facts.dtype);
  out.set_device(facts.device);
  out.set_quantization(facts.quantization);
  out.set_max_context_tokens(static_cast<uint32_t>(facts.max_context_tokens));
  out.set_vocab_size(static_cast<uint32_t>(facts.vocab_size));
  out.set_hidden_size(static_cast<uint32_t>(facts.hidden_size));
  out.set_num_layers(static_cast<uint32_t>(facts.num_layers));
  for (const int32_t id : facts.eos_token_ids) out.add_eos_token_ids(static_cast<uint32_t>(id));
  out.set_weight_bytes(static_cast<uint64_t>(facts.weight_bytes));
  out.set_version(kVersion);
  return out;
}

v1::FinishReason ToProto(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return v1::FINISH_REASON_STOP;
    case FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    case FinishReason::kAbort:
      return v1::FINISH_REASON_ABORT;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

v1::Usage ToProto(const Usage& usage) {
  v1::Usage out;
  out.set_prompt_tokens(static_cast<uint32_t>(usage.prompt_tokens));
  out.set_completion_tokens(static_cast<uint32_t>(usage.completion_tokens));
  out.set_cached_tokens(static_cast<uint32_t>(usage.cached_tokens));
  return out;
}

v1::TokenLogprob ToProto(const TokenLogprob& token, bool with_logprob) {
  v1::TokenLogprob out;
  out.set_token_id(static_cast<uint32_t>(token.token_id));
  if (!with_logprob) return out;
  out.set_logprob(token.logprob);
  for (const TopLogprob& other : token.top) {
    v1::TopLogprob* top = out.add_top();
    top->set_token_id(static_cast<uint32_t>(other.token_id));
    top->set_logprob(other.logprob);
  }
  return out;
}

}  // namespace lorad
