#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "lorad/v1/inference.pb.h"
#include "model/sampler/sampling_options.h"
#include "scheduler/request.h"
#include "server/model_facts.h"

namespace lorad {

// From protos to our own types: pure functions, with every limit of a field. Errors are InvalidArgument for a value out
// of its limits and Unimplemented for a feature that is not there, both by field name. The other way:
// server/to_proto.h.

// "" (the base), a well-formed name, or a revision NAME@REV. What is repeated in the error is cut when long.
absl::Status CheckRequestedAdapter(const std::string& adapter);

// Refuses text far longer than the context, so that it is not tokenised at all.
absl::Status CheckText(const std::string& text, const ModelFacts& model);

// Refuses more ids to decode than a context holds: they take three bytes each on the wire, and their text a hundred
// times that.
absl::Status CheckIdsToDecode(int64_t count, const ModelFacts& model);

// All that can be said of a request before its prompt is tokenised.
absl::Status CheckGenerateRequest(const v1::GenerateRequest& request);

// The adapter or the composition of a request that was checked; one adapter at scale 1 is no composition.
void TranslateAdapters(const v1::GenerateRequest& proto, Request* request);

// Defaults applied, limits checked, the model's end-of-sequence tokens among the stop tokens unless ignore_eos.
// `drawn_seed` is used when the caller gave none.
absl::StatusOr<SamplingOptions> TranslateSampling(const v1::GenerateRequest& request, const ModelFacts& model,
                                                  int64_t prompt_tokens, uint64_t drawn_seed);

// What ids must be below. An adapter may have a vocabulary of its own, which the engine knows once it knows the
// adapter: it checks the ids of requests that name one.
int64_t IdLimit(const v1::GenerateRequest& request, const ModelFacts& model);

// Each below the vocabulary's size. `field` names them in the error.
absl::StatusOr<std::vector<int32_t>> TranslateIds(const google::protobuf::RepeatedField<uint32_t>& ids,
                                                  int64_t vocab_size, const char* field);

}  // namespace lorad
