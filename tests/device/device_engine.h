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
EngineSetup SetupOnDevice();

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

  void Load(const std::string& name);
  // All at once.
  void ExpectAnswers(const std::vector<GoldenCase>& cases);
  SteppedEngine& engine() { return engine_; }

 private:
  const std::string base_;
  SteppedEngine engine_;
};

}  // namespace lorad
