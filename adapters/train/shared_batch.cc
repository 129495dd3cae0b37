#include "adapters/train/shared_batch.h"

#include <utility>

#include "adapters/train/micro_batch.h"
#include "model/base/status_macros.h"
#include "model/device_step.h"
#include "model/lost_device.h"
#include "model/ops/cpu/parallel.h"

namespace lorad {

std::function<void()> DeviceWait(const CausalLm* model) {
  if (model == nullptr || model->device().is_cpu()) return nullptr;
  return [model] { model->AwaitDevice(); };
}

void EndIfDeviceIsLost(const CausalLm* model, const absl::Status& status) {
  if (model != nullptr) EndIfLost(model->device(), status);
}

SharedBatch::SharedBatch(CausalLm* model, std::vector<Trainer*> trainers, std::vector<BatchMember> others,
                         int64_t kept_bytes)
    : model_(model), trainers_(std::move(trainers)), others_(std::move(others)), kept_bytes_(kept_bytes) {}
SharedBatch::~SharedBatch() = default;

absl::Status SharedBatch::Begin() {
  std::vector<MicroBatchPart> parts;
  for (Trainer* const trainer : trainers_) {
    ASSIGN_OR_RETURN(MicroBatchPart part, trainer->TakeMicroBatch());
    parts.push_back(std::move(part));
  }
  for (BatchMember& other : others_) parts.push_back(std::move(other.part));
  return GuardedOnDevice([&]() -> absl::Status {
    micro_batch_ = std::make_unique<MicroBatch>(model_, std::move(parts), kept_bytes_);
    return absl::OkStatus();
  });
}

absl::StatusOr<bool> SharedBatch::Advance() {
  const cpu::ComputeTeam::KeepAwake awake = cpu::KeepTeamAwake();
  if (micro_batch_ == nullptr) RETURN_IF_ERROR(Begin());
  RETURN_IF_ERROR(micro_batch_->Advance());
  if (!micro_batch_->done()) return false;
  for (size_t i = 0; i < trainers_.size(); ++i) {
    results_.push_back({trainers_[i], trainers_[i]->PutResult(micro_batch_->results()[i])});
  }
  for (size_t i = 0; i < others_.size(); ++i) others_[i].put(micro_batch_->results()[trainers_.size() + i]);
  micro_batch_.reset();
  return true;
}

}  // namespace lorad
