#pragma once

#include <functional>
#include <string>
#include <vector>

#include "tests/fuzz/seeds.h"

namespace lorad {

// Something that takes bytes from outside. run must return, whatever the bytes: crashes, sanitizers' findings and
// exceptions are failures.
struct FuzzTarget {
  std::string name;
  std::vector<std::string> seeds;  // inputs to change
  std::vector<std::string> words;  // what may be put in
  std::function<void(const std::string& input)> run;
  // Makes a changed input pass the outermost check, so that what lies behind is reached; may be empty.
  std::function<void(std::string* input)> repair = nullptr;
  int cost = 1;  // of one run, against the cheapest: dearer ones run less often
};

// safetensors, torch's archives and their pickles; adapter folders.
std::vector<FuzzTarget> WeightTargets(const FuzzPlaces& places);
// config.json, generation_config.json; the files that tokenizers are made of.
std::vector<FuzzTarget> ModelFolderTargets(const FuzzPlaces& places);
// GenerateRequest as bytes, its text, and what an answer's ids become.
std::vector<FuzzTarget> RequestTargets(const FuzzPlaces& places);

}  // namespace lorad
