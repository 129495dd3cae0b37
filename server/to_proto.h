#pragma once

#include <grpcpp/support/status.h>

#include "absl/status/status.h"
#include "lorad/v1/adapters.pb.h"
#include "lorad/v1/inference.pb.h"
#include "model/sampler/sampling_options.h"
#include "scheduler/adapter_info.h"
#include "scheduler/request.h"
#include "server/model_facts.h"

namespace lorad {

// From our own types to protos: pure functions that cannot fail.

// A message too long for gRPC's trailing metadata is cut.
grpc::Status ToGrpc(const absl::Status& status);
v1::Adapter ToProto(const AdapterInfo& info);  // without expert_load, which is long
void PutExpertLoad(const AdapterInfo& info, v1::Adapter* out);
v1::ModelInfo ToProto(const ModelFacts& facts);
v1::FinishReason ToProto(FinishReason reason);
v1::Usage ToProto(const Usage& usage);
// `with_logprob` false: the first token of a prompt, which nothing comes before.
v1::TokenLogprob ToProto(const TokenLogprob& token, bool with_logprob);

}  // namespace lorad
