#pragma once

#include <string>
#include <vector>

#include "scheduler/request.h"
#include "tests/support/engine_fixture.h"
#include "tests/support/golden_runner.h"

namespace lorad {

// Every case of a base of tests/golden: transformers' and peft's, compositions, and MoE-PEFT's, whose adapters' names
// begin with "moe/".
std::vector<GoldenCase> AllGoldenCases(const std::string& base);
// The folder of an adapter so named.
std::string GoldenAdapterDir(const std::string& base, const std::string& adapter);

// A greedy request with all log-probabilities.
Request GoldenRequestOf(const GoldenCase& golden);
GoldenAnswer GoldenAnswerOf(const Recording& recording);

}  // namespace lorad
