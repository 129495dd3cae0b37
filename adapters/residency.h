#pragma once

#include <cstdint>
#include <vector>

#include "adapters/loader.h"

namespace lorad {

enum class WantedPhase : uint8_t {
  kOnDisk,   // to be read (first time, or again after an eviction)
  kReading,  // a loader reads it
  kStaged,   // read; waits for pages
  kPacking,  // holds its pages, a loader fills them
  kResident,
};

// An adapter that waiting requests, or commands, need.
struct WantedAdapter {
  AdapterId id = 0;
  WantedPhase phase = WantedPhase::kOnDisk;
  int64_t pages = 0;        // 0 = not known before the first read
  bool warm = false;        // kOnDisk: but the host has it packed; it is placed without being read
  bool overtakable = true;  // false: others have gone first often enough; the pages that come free are for this one
  bool commanded = false;   // a load or a pin wants it: now, not ahead of its turn
  bool ahead = true;        // counts towards max_ahead: not who runs anyway, nor who could not begin if it were there
};

// An adapter in the pool that nobody runs on and that is not pinned.
struct IdleAdapter {
  AdapterId id = 0;
  int64_t pages = 0;
  int64_t last_use = 0;  // PagePool::NextUse
};

struct ResidencyInput {
  std::vector<WantedAdapter> wanted = {};  // each once, in the order of who waits
  std::vector<IdleAdapter> idle = {};      // oldest use first
  int64_t free_pages = 0;
  // How many of `wanted` that are there or could be are looked after, commanded ones not counted: those behind them
  // will not begin soon, and what is placed too early takes pages from who runs and is evicted again before its turn.
  int64_t max_ahead = 8;
  // Bounds of host memory outside the pool: adapters being read or read and about to be packed; adapters that were read
  // and found to have no room now. The latter do not keep others from being read whose size is known.
  int64_t max_staged = 4;
  int64_t max_parked = 16;
};

struct ResidencyPlan {
  std::vector<AdapterId> read;   // give to AdapterLoader::Stage
  std::vector<AdapterId> evict;  // take out of the pool, before packing
  std::vector<AdapterId> pack;   // reserve pages and give to AdapterLoader::Pack, or Copy
  std::vector<AdapterId> keep;   // resident and wanted soon, whoever waits longest first: to be evicted last
};

// Decides which adapters to read, pack and evict. Who waits longer goes first: an idle adapter that nobody wants is
// evicted before one that is wanted later, and one that is wanted earlier never is. What fits and is still on its way
// from disk keeps a claim on free pages. What does not fit lets those behind it use what there is, unless it is no
// longer overtakable: then nobody behind it reads, packs or evicts. Who is further back than max_ahead is only spared
// before those that nobody wants. Pure.
ResidencyPlan PlanResidency(const ResidencyInput& input);

}  // namespace lorad
