#include "scheduler/account.h"

#include <algorithm>
#include <utility>

namespace lorad {

Accounts::Accounts(ServicePrices prices) : prices_(std::move(prices)) {}

Account* Accounts::For(const std::string& name) {
  std::unique_ptr<Account>& account = all_[name];
  if (account == nullptr) {
    account = std::make_unique<Account>();
    account->id = next_id_++;
    account->name = name;
    const auto weight = prices_.weights.find(name.empty() ? std::string(kBaseAccount) : name);
    if (weight != prices_.weights.end()) account->weight = weight->second;
  }
  return account.get();
}

const Account* Accounts::Find(const std::string& name) const {
  const auto found = all_.find(name);
  return found == all_.end() ? nullptr : found->second.get();
}

double Accounts::CostToBegin(const Account& account, int64_t prompt_tokens) const {
  return prices_.input_token * static_cast<double>(prompt_tokens) / account.weight;
}

void Accounts::ChargeToBegin(int64_t prompt_tokens, Account* account) const {
  account->served += CostToBegin(*account, prompt_tokens);
}

void Accounts::ChargeGenerated(int64_t tokens, Account* account) const {
  account->served += prices_.output_token * static_cast<double>(tokens) / account->weight;
}

double Accounts::Standing(const Account& account) const {
  return account.backlogged ? account.served : std::max(account.served, floor_);
}

void Accounts::UpdateBacklogs(absl::Span<Account* const> backlogged) {
  const std::vector<Account*> before = std::exchange(backlogged_, {backlogged.begin(), backlogged.end()});
  bool any_stayed = false;
  double least = 0.0;
  for (const Account* account : backlogged_) {
    if (!account->backlogged) continue;
    least = any_stayed ? std::min(least, account->served) : account->served;
    any_stayed = true;
  }
  if (any_stayed) {
    floor_ = std::max(floor_, least);
  } else {
    for (const Account* account : before) floor_ = std::max(floor_, account->served);
  }
  for (Account* account : backlogged_) {
    if (!account->backlogged) account->served = std::max(account->served, floor_);
  }
  for (Account* account : before) account->backlogged = false;
  for (Account* account : backlogged_) account->backlogged = true;
  if (all_.size() > forget_above_) ForgetIdle();
}

void Accounts::ForgetIdle() {
  std::erase_if(all_, [this](const auto& entry) {
    const Account& account = *entry.second;
    return account.sequences == 0 && !account.backlogged && account.served <= floor_;
  });
  forget_above_ = std::max<size_t>(256, 2 * all_.size());
}

}  // namespace lorad
