#pragma once

#include "lorad/v1/finetuning.pb.h"
#include "scheduler/tuning/job.h"

namespace lorad {

// What is stored of jobs, as the service says it.
v1::Job ToProto(const Job& job);
v1::JobEvent ToProto(const JobEvent& event);

}  // namespace lorad
