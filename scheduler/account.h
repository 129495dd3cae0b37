#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/types/span.h"

namespace lorad {

// How the base is called where an empty name would be odd; no adapter can have this name.
inline constexpr std::string_view kBaseAccount = "(base)";

// What a token of service costs its account, and how much each account may have beside the others.
struct ServicePrices {
  double input_token = 1.0;  // w_p and w_q of the source; its own defaults
  double output_token = 2.0;
  std::map<std::string, double> weights = {};  // by adapter name or kBaseAccount; 1 for the rest
};

// What one adapter name, or the base, has in the queue and has had of the service. Its versions share it: replacing an
// adapter neither forgives what was had nor lifts a limit.
struct Account {
  uint64_t id = 0;
  std::string name;  // "" = the base
  double weight = 1.0;
  double served = 0.0;    // prompt and generated tokens by their prices, divided by the weight: the virtual counter
  int64_t sequences = 0;  // accepted and not ended
  int64_t running = 0;
  int64_t not_begun = 0;    // waiting for the first time
  bool backlogged = false;  // has someone waiting who could begin but for seats and memory
};

// The accounts of all names that matter. Engine thread only.
//
// Source   the virtual token counter of Sheng et al., OSDI 24, algorithm 2: beginning costs the prompt, each generated
//          token its price; who becomes backlogged is lifted to the least counter of those who are, or to that of who
//          was last, so that nobody saves up while away.
// Bounds   an account without sequences is forgotten once its counter is at or below what it would be lifted to.
class Accounts final {
 public:
  explicit Accounts(ServicePrices prices = {});

  // Made where there is none; stays where it is while it has sequences.
  Account* For(const std::string& name);
  const Account* Find(const std::string& name) const;

  double CostToBegin(const Account& account, int64_t prompt_tokens) const;
  void ChargeToBegin(int64_t prompt_tokens, Account* account) const;
  void ChargeGenerated(int64_t tokens, Account* account) const;

  // The counter by which it stands in line: who waits for its adapter stands where it will once it is ready and lifted.
  // Else those that are not ready would be before those that are, and their adapters would push out one another's.
  double Standing(const Account& account) const;

  // `backlogged` are those that are so now, each once. Lifts those that were not.
  void UpdateBacklogs(absl::Span<Account* const> backlogged);

  const ServicePrices& prices() const { return prices_; }
  const std::unordered_map<std::string, std::unique_ptr<Account>>& all() const { return all_; }

 private:
  void ForgetIdle();

  ServicePrices prices_;
  std::unordered_map<std::string, std::unique_ptr<Account>> all_;
  uint64_t next_id_ = 1;
  std::vector<Account*> backlogged_;
  double floor_ = 0.0;         // what who becomes backlogged is lifted to; never falls
  size_t forget_above_ = 256;  // accounts
};

}  // namespace lorad
