#pragma once

#include <fstream>
#include <string>
#include <vector>

namespace lorad::bench {

// Of the same measured several times.
struct Spread {
  double median = 0.0, least = 0.0, most = 0.0;
};
Spread SpreadOf(std::vector<double> values);

// What is found as it is found: for people a line of the output each, for programs a line of JSON each in a file.
class Report final {
 public:
  // The file's lines begin anew. False: it cannot be written.
  bool WriteTo(const std::string& path);
  // What the next values are of.
  void Of(std::string shape) { shape_ = std::move(shape); }

  void Value(const std::string& what, double value, const std::string& unit = "");
  void Value(const std::string& what, const Spread& values, const std::string& unit = "");
  // A line for people, and in the file "note".
  void Note(const std::string& text);

 private:
  std::string shape_;
  std::ofstream json_;
};

}  // namespace lorad::bench
