#include "scheduler/tuning/run_maker.h"

#include "adapters/train/device_turns.h"
#include "model/base/status_macros.h"
#include "scheduler/tuning/checkpoints.h"

namespace lorad {

absl::StatusOr<std::shared_ptr<Run>> RunMaker::Begin(const RunFolder::Identity& identity,
                                                     const std::optional<AdapterImage>& weights,
                                                     const GoOnFn& go_on) const {
  if (parts_.hold) RETURN_IF_ERROR(parts_.hold());
  const DeviceTurns turns(parts_.in_turn);
  ASSIGN_OR_RETURN(std::shared_ptr<Run> run, Make(identity, /*begins_from_state=*/false, go_on));
  const RunFolder folder(parts_.dir, run->id);
  RETURN_IF_ERROR(RemoveFolder(folder.path()));  // states that an unfinished Create left would be taken for its own
  if (weights.has_value()) {
    RETURN_IF_ERROR(run->training->CopyFrom(*weights));
    RETURN_IF_ERROR(folder.SaveState(identity.sequence, *run->training));
  }
  RETURN_IF_ERROR(folder.Write(identity));
  return run;
}

absl::StatusOr<std::shared_ptr<Run>> RunMaker::Load(const RunFolder::Identity& identity, const GoOnFn& go_on) const {
  const RunFolder folder(parts_.dir, RunIdOf(identity.name, identity.sequence));
  const DeviceTurns turns(parts_.in_turn);
  ASSIGN_OR_RETURN(std::shared_ptr<Run> run, Make(identity, folder.HasStates(), go_on));
  ASSIGN_OR_RETURN(const int64_t newest, folder.LoadNewest(identity.sequence, parts_.begins_from_weights(identity.spec),
                                                           run->training.get()));
  if (run->training->needs_state()) {  // none of its states is whole: it is as it began
    run->training.reset();             // not two at once
    ASSIGN_OR_RETURN(run->training, parts_.make(identity.spec, /*begins_from_state=*/false, go_on));
  }
  run->queue = RunQueue(newest);
  return run;
}

absl::StatusOr<std::shared_ptr<Run>> RunMaker::Make(const RunFolder::Identity& identity, bool begins_from_state,
                                                    const GoOnFn& go_on) const {
  auto run = std::make_shared<Run>(RunIdOf(identity.name, identity.sequence), identity.name, identity.sequence);
  ASSIGN_OR_RETURN(run->training, parts_.make(identity.spec, begins_from_state, go_on));
  return run;
}

}  // namespace lorad
