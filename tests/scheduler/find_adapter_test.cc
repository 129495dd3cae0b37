#include "scheduler/find_adapter.h"

#include <gtest/gtest.h>

#include <utility>

#include "scheduler/adapter_table.h"

namespace lorad {
namespace {

AdapterVersion* AddLoading(AdapterTable* table, const std::string& name, const std::string& path) {
  AdapterVersion* const version = table->Add(name, path);
  MoveTo(version, AdapterState::kLoading);
  return version;
}

void Drain(AdapterTable* table, AdapterVersion* version) {
  table->Detach(version);
  MoveTo(version, AdapterState::kDraining);
}

AdapterListing ListingOf(AdapterTable* table) {
  AdapterListing listing;
  listing.all = table->List();
  return listing;
}

TEST(FindAdapterTest, ANameMeansItsLiveVersionWhateverElseIsListedUnderIt) {
  AdapterTable table;
  AddLoading(&table, "a", "/a");
  for (const char* path : {"/first", "/second"}) Drain(&table, AddLoading(&table, "b", path));
  table.RememberFailure(*AddLoading(&table, "b", "/live"), absl::DataLossError("damaged"));
  AddLoading(&table, "c", "/c");
  const AdapterListing listing = ListingOf(&table);
  ASSERT_EQ(listing.all.size(), 6u);
  for (const auto& [name, path] : {std::pair("a", "/a"), std::pair("b", "/live"), std::pair("c", "/c")}) {
    ASSERT_NE(FindLive(listing, name), nullptr) << name;
    EXPECT_EQ(FindLive(listing, name)->path, path);
    EXPECT_EQ(FindListed(listing, name), FindLive(listing, name));
  }
}

TEST(FindAdapterTest, WhatDrainsOrFailedIsListedButNotLive) {
  AdapterTable table;
  AdapterVersion* const drains = AddLoading(&table, "both", "/drains");
  table.RememberFailure(*drains, absl::DataLossError("damaged"));
  Drain(&table, drains);
  AdapterVersion* const failed = AddLoading(&table, "failed", "/failed");
  table.RememberFailure(*failed, absl::DataLossError("damaged"));
  table.Detach(failed);
  table.Erase(failed);
  const AdapterListing listing = ListingOf(&table);
  EXPECT_EQ(FindLive(listing, "both"), nullptr);
  EXPECT_EQ(FindLive(listing, "failed"), nullptr);
  ASSERT_NE(FindListed(listing, "both"), nullptr);
  EXPECT_EQ(FindListed(listing, "both")->state, AdapterState::kDraining);  // before its failure
  ASSERT_NE(FindListed(listing, "failed"), nullptr);
  EXPECT_EQ(FindListed(listing, "failed")->state, AdapterState::kFailed);
}

TEST(FindAdapterTest, ANameThatIsNotListedIsNothing) {
  AdapterTable table;
  EXPECT_EQ(FindListed(ListingOf(&table), "a"), nullptr);
  AddLoading(&table, "b", "/b");
  const AdapterListing listing = ListingOf(&table);
  for (const char* name : {"", "a", "bb"}) EXPECT_EQ(FindListed(listing, name), nullptr) << name;
}

}  // namespace
}  // namespace lorad
