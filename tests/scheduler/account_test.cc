#include "scheduler/account.h"

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace lorad {
namespace {

TEST(AccountTest, TokensCostTheirPriceByTheWeight) {
  Accounts accounts({.input_token = 1.0, .output_token = 2.0, .weights = {{"heavy", 4.0}, {"(base)", 0.5}}});
  Account* const plain = accounts.For("plain");
  Account* const heavy = accounts.For("heavy");
  Account* const base = accounts.For("");
  for (Account* account : {plain, heavy, base}) {
    accounts.ChargeToBegin(100, account);
    accounts.ChargeGenerated(10, account);
  }
  EXPECT_DOUBLE_EQ(plain->served, 120.0);
  EXPECT_DOUBLE_EQ(heavy->served, 30.0);
  EXPECT_DOUBLE_EQ(base->served, 240.0);
}

TEST(AccountTest, WhoComesBackIsLiftedToTheLeastOfThoseWhoStayed) {
  Accounts accounts;
  Account* const a = accounts.For("a");
  Account* const b = accounts.For("b");
  Account* const c = accounts.For("c");
  accounts.UpdateBacklogs({{a, b}});
  accounts.ChargeToBegin(500, a);
  accounts.ChargeToBegin(300, b);
  accounts.UpdateBacklogs({{a, b, c}});
  EXPECT_DOUBLE_EQ(c->served, 300.0);  // not 0: nothing is saved up while away
  EXPECT_DOUBLE_EQ(b->served, 300.0);
}

TEST(AccountTest, WhoHasHadMoreThanTheLeastIsNotLifted) {
  Accounts accounts;
  Account* const a = accounts.For("a");
  Account* const b = accounts.For("b");
  accounts.ChargeToBegin(900, b);
  accounts.UpdateBacklogs({{a}});
  accounts.UpdateBacklogs({{a, b}});
  EXPECT_DOUBLE_EQ(b->served, 900.0);
}

TEST(AccountTest, WhenNobodyStayedTheLastToLeaveIsWhatCounts) {
  Accounts accounts;
  Account* const a = accounts.For("a");
  Account* const b = accounts.For("b");
  accounts.UpdateBacklogs({{a}});
  accounts.ChargeToBegin(700, a);
  accounts.UpdateBacklogs({});
  accounts.UpdateBacklogs({{b}});
  EXPECT_DOUBLE_EQ(b->served, 700.0);
}

TEST(AccountTest, NamesThatCameAndWentAreForgottenAndGainNothingByIt) {
  Accounts accounts;
  Account* const busy = accounts.For("busy");
  busy->sequences = 1;
  accounts.UpdateBacklogs({{busy}});
  accounts.ChargeToBegin(1'000'000, busy);
  for (int i = 0; i < 5'000; ++i) {
    Account* const passing = accounts.For(absl::StrCat("passing-", i));
    accounts.ChargeToBegin(i, passing);
    accounts.UpdateBacklogs({{busy}});
  }
  EXPECT_LT(accounts.all().size(), 600u);
  EXPECT_EQ(accounts.Find("busy"), busy);
  Account* const again = accounts.For("passing-7");
  accounts.UpdateBacklogs({{busy, again}});
  EXPECT_DOUBLE_EQ(again->served, busy->served);
}

TEST(AccountTest, WhoHadMoreThanOthersIsNotForgotten) {
  Accounts accounts;
  accounts.ChargeToBegin(1'000, accounts.For("greedy"));
  for (int i = 0; i < 1'000; ++i) accounts.For(absl::StrCat("passing-", i));
  accounts.UpdateBacklogs({});
  ASSERT_NE(accounts.Find("greedy"), nullptr);
  EXPECT_DOUBLE_EQ(accounts.Find("greedy")->served, 1'000.0);
}

}  // namespace
}  // namespace lorad
