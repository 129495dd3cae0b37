#pragma once

#include <cstdint>

namespace lorad {

// What training may take of serving's time, and before which steps: a share on top of the steps, piece by piece, and
// where it can be helped none before a long step, whose tokens are late as it is. Pure: knows no clock and no threads.
class TrainingCredit final {
 public:
  // share >= 0, of serving's time.
  explicit TrainingCredit(double share) : share_(share) {}

  void Served(int64_t step_us);
  void Trained(int64_t took_us);  // while serving went on

  // Whether a piece of about `piece_us` may run before a step of about `step_us` (0: not known), which waits for it.
  bool MayPrecede(int64_t step_us, int64_t piece_us) const;
  // Whether, after pieces of `turn_us`, one more may run while a step waits.
  bool MayGoOn(int64_t turn_us, int64_t piece_us) const;

 private:
  const double share_;
  double credit_us_ = 0;   // what training may still take
  double longest_us_ = 0;  // of the steps lately
};

}  // namespace lorad
