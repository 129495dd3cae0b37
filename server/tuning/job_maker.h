#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "adapters/base_tables.h"
#include "lorad/v1/finetuning.pb.h"
#include "model/text/chat_template.h"
#include "scheduler/tuning/job.h"
#include "scheduler/tuning/running_job.h"
#include "server/backend.h"
#include "server/tuning/batch_limits.h"

namespace lorad {

class CausalLm;

// A job as it is to be stored, and what there is to say of its data.
struct MadeJob {
  Job job;
  std::string message;
};

// From a submission to the job that is stored, and from that to what trains. Everything named outlives it.
//
// Threads  const.
struct JobMaker {
  const Backend* backend;
  CausalLm* model;
  const BaseTables& base_tables;
  const absl::StatusOr<std::shared_ptr<const ChatTemplate>>* chat_template;  // or why the model has none
  MemoryLimit memory;

  // Reads and checks all of the data and copies them into `folder`, which it makes; the adapter that the job begins
  // from too. Nothing of what trains is made. Errors: of the spec, by its fields; of the data, by their lines; of
  // `go_on`, which is asked at each line.
  absl::StatusOr<MadeJob> Make(const v1::SubmitJobRequest& request, const std::string& id, const std::string& folder,
                               const std::function<absl::Status()>& go_on) const;
  // What the plan's trainer will take; nothing is made.
  absl::StatusOr<JobBytes> BytesOf(const Job& job, const std::string& folder) const;
  absl::StatusOr<TuningPlan> Plan(const Job& job, const std::string& folder, const GoOnFn& go_on) const;
};

}  // namespace lorad
