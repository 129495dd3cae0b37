#pragma once

#include <chrono>
#include <cstdint>
#include <limits>
#include <list>
#include <map>
#include <memory>
#include <set>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>

#include "absl/status/statusor.h"
#include "model/causal_lm.h"
#include "model/graph_seam.h"
#include "model/ops/device_graph.h"

namespace lorad {

// Forwards of decode steps on a CUDA device, each captured once and replayed for every step that fits: one call of the
// driver's instead of hundreds of launches.
//
// A step can be captured when every sequence has one row and its logits are wanted, and nothing of it is planned by the
// host: no experts of an adapter by top-p, no more rows of a routed base than the device deals, no replaced norms. A
// graph is found by the rows and blocks that the step is padded to, the variant of the rope and the seam's features.
// What a step has of its own goes up by one copy into the graph's inputs, before the replay: tokens, positions, block
// tables, and the seam's tables, by which adapters change under a graph. Padding rows have no block and no KV slot:
// they write nowhere, and their logits are NaN.
//
// A capture takes as long as several steps, and everybody waits: so what no graph fits runs eagerly by the other seam
// when it is seen first, as every step does without graphs, and only when it is seen again as it would be captured, and
// is captured behind that. The oldest graph goes when there are too many, all of them when they hold too much memory or
// what they read has moved; either has to be seen twice again. What cannot be captured runs eagerly; it is tried anew
// when what graphs read has moved, and where the device's memory was full, after a while.
//
// Threads  the executor's. Errors  as CausalLm::ForwardOnDevice; that a capture fails is none: the step runs eagerly.
class StepGraphs final {
 public:
  struct Options {
    int64_t most_graphs = 64;
    int64_t most_bytes = int64_t{1} << 30;                  // of the device's memory
    std::chrono::seconds retry = std::chrono::seconds(30);  // of a capture that found it full
  };
  struct Held {
    int64_t graphs = 0;
    int64_t bytes = 0;  // of the device's memory
  };
  // Both outlive it. Null where no graphs can be: the model is on the CPU, or no CUDA operators are loaded.
  static std::unique_ptr<StepGraphs> Create(CausalLm* model, GraphSeam* seam, const Options& options);

  // CausalLm::ForwardOnDevice, by a graph where there is one. The logits, of the batch's rows and maybe of more, are
  // there until the next call.
  absl::StatusOr<at::Tensor> Forward(const ForwardBatch& batch, const KvView& kv, AdapterSeam& eager);

  // How the last forward ran: "replayed", "captured", "first" (eagerly: nothing like it was seen before), or why else
  // eagerly, a word of a few.
  std::string_view how() const { return how_; }
  Held held() const;

 private:
  using Clock = std::chrono::steady_clock;
  using Key = std::vector<int64_t>;
  struct Graph {
    Key key;
    int64_t rows = 0;    // padded
    int64_t blocks = 0;  // of a sequence, padded
    at::Tensor inputs;   // [bytes] uint8, on the device: batch, then the seam's tables
    int64_t tables_at = 0;
    std::unique_ptr<DeviceGraph> graph;
    // The logits of a replay: memory of the family's pool, which another graph's replay writes over.
    void* logits = nullptr;
    std::vector<int64_t> logits_shape;
  };
  StepGraphs(CausalLm* model, GraphSeam* seam, const Options& options);

  std::string_view WhyEager(const ForwardBatch& batch) const;
  absl::StatusOr<at::Tensor> Replay(const ForwardBatch& batch, const GraphStep& step, const Graph& graph);
  absl::StatusOr<at::Tensor> RunAndCapture(const ForwardBatch& batch, const GraphStep& step, Key key, const KvView& kv);
  absl::Status Capture(const PlacedBatch& batch, const KvView& kv, Graph& graph);
  Graph MakeInputs(const GraphStep& step, Key key) const;
  static ForwardBatch OverInputs(const Graph& graph);  // without what tells of adapters
  void Upload(const ForwardBatch& batch, const GraphStep& step, const Graph& graph) const;
  void DropIfMoved(const KvView& kv);
  void DropAll();
  bool IsRefused(const Key& key);
  bool IsFirstSight(const Key& key);
  void Refuse(Key key, const absl::Status& why);
  void Keep(Graph graph);

  CausalLm* const model_;
  GraphSeam* const seam_;
  const Options options_;
  const std::unique_ptr<DeviceGraphs> family_;
  std::list<Graph> graphs_;                                      // the last used first; gone before family_
  std::set<Key> seen_once_;                                      // and are not captured
  std::map<Key, Clock::time_point> refused_;                     // whose capture failed, until when
  int64_t too_many_rows_ = std::numeric_limits<int64_t>::max();  // whose graph takes more than most_bytes
  int64_t bytes_ = 0;  // that the family took since it was made: a dropped graph's memory stays with it
  std::vector<int64_t> read_from_ = {};  // where what all graphs read lies
  std::string_view how_ = "";
};

}  // namespace lorad
