#pragma once

#include <grpcpp/support/server_callback.h>

#include "absl/status/status.h"
#include "lorad/v1/finetuning.pb.h"
#include "server/tuning/tuning.h"

namespace lorad {

// A WatchJob call: writes the job's events from behind after_sequence, as they are stored, and ends behind the one that
// finishes the job. Deletes itself. `refusal` not OK: ends with it at once, and `tuning` is not used.
grpc::ServerWriteReactor<v1::JobEvent>* StartWatch(Tuning* tuning, const absl::Status& refusal,
                                                   const v1::WatchJobRequest& request);

}  // namespace lorad
