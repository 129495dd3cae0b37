#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "lorad/v1/finetuning.pb.h"

namespace lorad::adapterctl {

// Losses as a plot of block characters, `rows` lines from the top, the newest at the right; each column is the mean of
// its share. The first line begins with the highest value, the last one with the lowest. Empty without losses.
std::vector<std::string> LossPlot(const std::vector<double>& losses, size_t columns, size_t rows);
// "[#####-----]"
std::string ProgressBar(uint32_t done, uint32_t total, size_t columns);

// What a job's events look like: on a terminal a progress bar over the loss curve, drawn again in its place, and
// messages above it; else a line an event; with `json` an object a line.
class WatchView final {
 public:
  WatchView(bool json, uint32_t total_steps);

  void Show(const v1::JobEvent& event);

 private:
  void ShowMessage(const v1::JobEvent& event);
  void Draw(const v1::JobEvent& event);
  void Erase();

  const bool json_;
  const bool terminal_;
  const uint32_t total_steps_;
  std::map<uint32_t, double> losses_;  // by step
  std::vector<std::string> drawn_;     // lines on the terminal that are drawn again
};

}  // namespace lorad::adapterctl
