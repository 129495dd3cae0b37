#pragma once

#include <set>
#include <string>
#include <vector>

#include "model/causal_lm.h"
#include "tests/component/golden_requests.h"
#include "tests/support/engine_fixture.h"

// Golden cases through the engine, over a model and a pool on the test's device.
namespace lorad {

LoadOptions OnDevice();
// Steps follow one another as the daemon's do, and run eagerly: who wants them captured says so.
EngineSetup SetupOnDevice();
// The same with a pool that holds a few adapters at a time, and steps of few tokens: adapters are evicted and read
// again, pages move, sequences give their blocks back.
EngineSetup WithSmallPool(EngineSetup setup);

// Whose prompt is short enough for an emulated device's time.
bool IsShort(const GoldenCase& golden);
// One short case of each adapter ("": the base alone) in `wanted`.
std::vector<GoldenCase> CasesOf(const std::string& base, std::set<std::string> wanted);
// Of all adapters that there are of the base, and of its compositions: every case; of an emulated device, for its time,
// one short case of each adapter and the short compositions.
std::vector<GoldenCase> CasesOf(const std::string& base);
// The adapters that they name.
std::set<std::string> NamesIn(const std::vector<GoldenCase>& cases);

class DeviceEngine final {
 public:
  // `model` outlives it.
  DeviceEngine(CausalLm* model, std::string base, const EngineSetup& setup);

  void Load(const std::string& name) { LoadAs(name, name); }
  // The golden adapter in `folder`, by this name.
  void LoadAs(const std::string& name, const std::string& folder);
  void Unload(const std::string& name);
  void LoadFor(const std::vector<GoldenCase>& cases);
  // `apart`: turns between two submissions.
  void ExpectAnswers(const std::vector<GoldenCase>& cases, int apart = 0);
  void ExpectAnswersWhileLoaded(const std::string& name);
  SteppedEngine& engine() { return engine_; }
  CountingObserver& observer() { return engine_.parts().observer; }

 private:
  const std::string base_;
  SteppedEngine engine_;
};

}  // namespace lorad
