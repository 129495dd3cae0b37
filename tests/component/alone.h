#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "adapters/image.h"
#include "scheduler/request.h"
#include "tests/component/answer.h"
#include "tests/support/engine_fixture.h"

namespace lorad {

std::string AdapterDir(const std::string& base, const std::string& variant);  // of tests/golden

// What sequence `index` of a recorded request got.
Answer AnswerOf(const Recording& recording, int32_t index);

// Greedy without anything that changes logits: a margin of the raw logits tells how clear a choice was.
bool MarginsCount(const SamplingOptions& sampling);

// Runs single requests in an engine that does nothing else, with room for whole prompts in one step.
class AloneRunner final {
 public:
  explicit AloneRunner(const std::string& base);

  // `path` of an adapter's folder, or of an image added before; "" = the base.
  Answer Run(Request request, int32_t index, const std::string& path);
  int64_t PagesOf(const std::string& path);
  void AddImage(const std::string& path, std::shared_ptr<const AdapterImage> image) {
    engine_.AddImage(path, std::move(image));
  }

 private:
  const std::string& NameOf(const std::string& path);  // loads it if need be
  SteppedEngine engine_;
  std::map<std::string, std::string> names_;  // by path
};

}  // namespace lorad
