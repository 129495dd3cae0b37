#pragma once

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <utility>

#include "absl/status/status.h"

namespace lorad {

// Ends the program with 3 behind the test after which a device answers nothing but errors, and names it: of the tests
// behind it, each of which would fail, none is blamed.
class EndsWhenBroken final : public testing::EmptyTestEventListener {
 public:
  // `answers`: whether the device does.
  explicit EndsWhenBroken(std::function<absl::Status()> answers) : answers_(std::move(answers)) {}

  void OnTestEnd(const testing::TestInfo& test) override {
    const absl::Status status = answers_();
    if (status.ok()) return;
    std::fflush(stdout);
    std::fprintf(stderr, "[  BROKEN  ] %s.%s: the device: %s\n", test.test_suite_name(), test.name(),
                 std::string(status.message()).c_str());
    std::fflush(nullptr);
    std::_Exit(3);  // nothing on the device can be given back
  }

 private:
  const std::function<absl::Status()> answers_;
};

}  // namespace lorad
