#include "clients/adapterctl/train/watch_view.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>

#include "clients/adapterctl/train/job_output.h"

namespace lorad::adapterctl {
namespace {

constexpr size_t kPlotRows = 8, kBarColumns = 24, kLabelColumns = 8;

size_t TerminalColumns() {
  winsize size = {};
  constexpr size_t kUnknown = 80, kMost = 120;
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return kUnknown;
  return std::min<size_t>(size.ws_col, kMost);
}

std::string Numbers(const v1::JobEvent& event, uint32_t total_steps) {
  char text[192], routers[32] = "";
  if (event.has_aux_loss()) std::snprintf(routers, sizeof(routers), " + routers' %.4f", event.aux_loss());
  std::snprintf(text, sizeof(text), "step %u/%u  loss %.4f%s  lr %.2e  norm %.2f  %.0f tokens/s", event.step(),
                total_steps, event.loss(), routers, event.learning_rate(), event.grad_norm(),
                event.tokens_per_second());
  return text;
}

// The mean of each column's share of the values.
std::vector<double> Columns(const std::vector<double>& values, size_t columns) {
  std::vector<double> means(std::min(columns, values.size()));
  for (size_t c = 0; c < means.size(); ++c) {
    const size_t begin = c * values.size() / means.size(), end = (c + 1) * values.size() / means.size();
    for (size_t i = begin; i < end; ++i) means[c] += values[i] / static_cast<double>(end - begin);
  }
  return means;
}

}  // namespace

std::vector<std::string> LossPlot(const std::vector<double>& losses, size_t columns, size_t rows) {
  static constexpr std::array<const char*, 9> kBlocks = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  constexpr size_t kEighths = kBlocks.size() - 1;
  const std::vector<double> means = Columns(losses, columns > kLabelColumns ? columns - kLabelColumns : 1);
  if (means.empty()) return {};
  const auto [low, high] = std::minmax_element(means.begin(), means.end());
  const double span = std::max(*high - *low, 1e-12);
  std::vector<std::string> lines;
  for (size_t row = 0; row < rows; ++row) {
    char label[32] = "       ";
    if (row == 0) std::snprintf(label, sizeof(label), "%7.3f", *high);
    if (row + 1 == rows) std::snprintf(label, sizeof(label), "%7.3f", *low);
    std::string line = std::string(label) + " ";
    const size_t below = (rows - 1 - row) * kEighths;
    for (const double mean : means) {
      const auto height =
          1 + static_cast<size_t>((mean - *low) / span * static_cast<double>(rows * kEighths - 1) + 0.5);
      line += kBlocks[height <= below ? 0 : std::min(height - below, kEighths)];
    }
    lines.push_back(std::move(line));
  }
  return lines;
}

std::string ProgressBar(uint32_t done, uint32_t total, size_t columns) {
  const size_t filled = total == 0 ? 0 : std::min<size_t>(columns, columns * done / total);
  std::string bar = "[";
  bar.append(filled, '#').append(columns - filled, '-').push_back(']');
  return bar;
}

WatchView::WatchView(bool json, uint32_t total_steps)
    : json_(json), terminal_(!json && isatty(STDOUT_FILENO) != 0), total_steps_(total_steps) {}

void WatchView::Show(const v1::JobEvent& event) {
  if (json_) {
    std::printf("%s\n", ToJson(event).dump().c_str());
  } else if (!event.has_loss()) {
    ShowMessage(event);
  } else {
    losses_[event.step()] = event.loss();  // a step that was done again after a restart replaces itself
    if (terminal_) {
      Draw(event);
    } else {
      std::printf("%s\n", Numbers(event, total_steps_).c_str());
    }
  }
  std::fflush(stdout);
}

void WatchView::ShowMessage(const v1::JobEvent& event) {
  const std::vector<std::string> below = IsFinished(event.state()) ? std::vector<std::string>() : drawn_;
  if (!below.empty()) Erase();
  std::string text = event.message();
  if (event.has_eval_loss()) {
    char loss[64];
    std::snprintf(loss, sizeof(loss), "step %u  eval loss %.4f", event.step(), event.eval_loss());
    text = loss + (text.empty() ? "" : "  " + text);
  } else {
    text = NameOf(event.state()) + (text.empty() ? "" : ": " + text);
  }
  std::printf("%s\n", text.c_str());
  for (const std::string& line : below) std::printf("%s\n", line.c_str());
  drawn_ = below;
}

void WatchView::Draw(const v1::JobEvent& event) {
  Erase();
  const size_t columns = TerminalColumns();
  std::vector<double> losses;
  for (const auto& [step, loss] : losses_) losses.push_back(loss);
  drawn_ = LossPlot(losses, columns, kPlotRows);
  std::string line = ProgressBar(event.step(), total_steps_, kBarColumns) + " " + Numbers(event, total_steps_);
  drawn_.push_back(line.substr(0, columns - 1));
  for (const std::string& drawn : drawn_) std::printf("%s\n", drawn.c_str());
}

void WatchView::Erase() {
  if (!drawn_.empty()) std::printf("\033[%zuA\033[J", drawn_.size());
  drawn_.clear();
}

}  // namespace lorad::adapterctl
