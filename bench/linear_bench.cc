// The base's matmul against LibTorch's and against what reading the weights costs at the least. The weights are larger
// than the caches, as a model's are.
#include <cstdint>
#include <string>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/ops/_convert_weight_to_int4pack_for_cpu.h>
#include <ATen/ops/_weight_int4pack_mm_for_cpu.h>
#include <ATen/ops/_weight_int8pack_mm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>

#include <benchmark/benchmark.h>

#include "bench/ratio_table.h"
#include "model/base/check.h"
#include "model/ops/autograd/linear_backward.h"
#include "model/ops/cpu/parallel.h"
#include "model/ops/linear.h"

namespace lorad::bench {
namespace {

constexpr int64_t kOut = 5632;
constexpr int64_t kIn = 2048;
constexpr int64_t kWeights = 3;  // walked through in turn

struct Weights {
  std::vector<at::Tensor> stored;
  std::vector<LinearWeight> packed;
  explicit Weights(at::ScalarType dtype) {
    for (int64_t i = 0; i < kWeights; ++i) {
      stored.push_back(at::randn({kOut, kIn}).to(dtype));
      packed.push_back(LinearWeight::Pack(stored.back().clone()));
    }
  }
  int64_t bytes() const { return kOut * kIn * stored[0].element_size(); }
  at::ScalarType dtype() const { return stored[0].scalar_type(); }
};

void Finish(benchmark::State& state, const Weights& w, int64_t rows) {
  state.counters["weight GB/s"] =
      benchmark::Counter(static_cast<double>(state.iterations() * w.bytes()) * 1e-9, benchmark::Counter::kIsRate);
  state.counters["GFLOP/s"] = benchmark::Counter(static_cast<double>(state.iterations() * rows * 2 * kOut * kIn) * 1e-9,
                                                 benchmark::Counter::kIsRate);
}

void RunOurs(benchmark::State& state, const Weights& w, int64_t rows) {
  const at::Tensor x = at::randn({rows, kIn}).to(w.dtype());
  at::Tensor y = at::empty({rows, kOut}, at::TensorOptions().dtype(w.dtype()));
  size_t next = 0;
  for (auto _ : state) {
    LORAD_CHECK(Linear({x, w.packed[next++ % kWeights], y}).ok());
  }
  Finish(state, w, rows);
}

void RunTorch(benchmark::State& state, const Weights& w, int64_t rows) {
  const at::Tensor x = at::randn({rows, kIn}).to(w.dtype());
  size_t next = 0;
  for (auto _ : state) {
    at::Tensor y = at::linear(x, w.stored[next++ % kWeights]);
    benchmark::DoNotOptimize(y.const_data_ptr());
  }
  Finish(state, w, rows);
}

// The gradient of x: ours, or LibTorch's matmul with the weight in rows.
void RunBackward(benchmark::State& state, const Weights& w, int64_t rows, bool ours) {
  const at::Tensor g = at::randn({rows, kOut}).to(w.dtype());
  size_t next = 0;
  for (auto _ : state) {
    const size_t i = next++ % kWeights;
    const at::Tensor dx = ours ? LinearBackward(g, w.packed[i]) : at::mm(g, w.stored[i]);
    benchmark::DoNotOptimize(dx.const_data_ptr());
  }
  Finish(state, w, rows);
}

// Weights that are quantised, ours and LibTorch's packed ones (whose numbers are any: only time is looked at).
struct QuantizedWeights {
  std::vector<LinearWeight> int8, int4, fp8;
  std::vector<at::Tensor> torch_int8, torch_int4;
  at::Tensor int8_scales = at::ones({kOut}).to(at::kBFloat16);
  at::Tensor int4_factors = at::ones({kIn / 64, kOut, 2}).to(at::kBFloat16);
  QuantizedWeights() {
    for (int64_t i = 0; i < kWeights; ++i) {
      const at::Tensor w = at::randn({kOut, kIn});
      int8.push_back(LinearWeight::Quantize(w, Quantization::kInt8));
      int4.push_back(LinearWeight::Quantize(w, Quantization::kInt4));
      fp8.push_back(LinearWeight::Quantize(w, Quantization::kFp8));
      torch_int8.push_back(at::randint(-127, 128, {kOut, kIn}).to(at::kChar));
      torch_int4.push_back(at::_convert_weight_to_int4pack_for_cpu(at::randint(0, 16, {kOut, kIn}).to(at::kInt), 1));
    }
  }
};

void RunQuantized(benchmark::State& state, const std::vector<LinearWeight>& w, int64_t rows) {
  const at::Tensor x = at::randn({rows, kIn}).to(at::kBFloat16);
  at::Tensor y = at::empty({rows, kOut}, x.options());
  size_t next = 0;
  for (auto _ : state) {
    LORAD_CHECK(Linear({x, w[next++ % kWeights], y}).ok());
  }
}

template <typename Multiply>
void RunTorchQuantized(benchmark::State& state, int64_t rows, const Multiply& multiply) {
  const at::Tensor x = at::randn({rows, kIn}).to(at::kBFloat16);
  size_t next = 0;
  for (auto _ : state) {
    at::Tensor y = multiply(x, next++ % kWeights);
    benchmark::DoNotOptimize(y.const_data_ptr());
  }
}

// Reads each weight once: eight independent sums over 64-bit words on every thread.
void RunRead(benchmark::State& state, const Weights& w) {
  size_t next = 0;
  for (auto _ : state) {
    const at::Tensor& t = w.stored[next++ % kWeights];
    const uint64_t* words = static_cast<const uint64_t*>(t.const_data_ptr());
    cpu::ParallelFor(w.bytes() / 64, 1, [&](int64_t begin, int64_t end) {
      uint64_t sums[8] = {};
      for (int64_t i = begin; i < end; ++i)
        for (int j = 0; j < 8; ++j) sums[j] += words[i * 8 + j];
      for (uint64_t sum : sums) benchmark::DoNotOptimize(sum);
    });
  }
  Finish(state, w, 0);
}

}  // namespace
}  // namespace lorad::bench

int main(int argc, char** argv) {
  using namespace lorad::bench;
  at::set_num_threads(2);
  lorad::cpu::SetComputeThreads(2);
  const lorad::cpu::ComputeTeam::KeepAwake awake = lorad::cpu::KeepTeamAwake();  // as in a forward
  std::vector<Ratio> ratios;
  const Weights f32(at::kFloat), bf16(at::kBFloat16);
  for (const Weights* w : {&f32, &bf16}) {
    const std::string on = w == &f32 ? "f32/" : "bf16/";
    const auto add = [&](const std::string& name, auto fn) {
      benchmark::RegisterBenchmark((on + name).c_str(), fn)
          ->Unit(benchmark::kMillisecond)
          ->UseRealTime()
          ->Iterations(1);
    };
    add("read", [w](benchmark::State& s) { RunRead(s, *w); });
    for (const int64_t rows : {1, 2, 4, 8, 16, 32, 64, 256}) {
      const std::string r = std::to_string(rows);
      add("ours " + r, [w, rows](benchmark::State& s) { RunOurs(s, *w, rows); });
      ratios.push_back({on + " rows " + r + ": Linear / reading the weights", on + "ours " + r, on + "read"});
      if (w == &bf16 && rows > 32) continue;  // LibTorch takes seconds where the processor has no bf16 instructions
      add("torch " + r, [w, rows](benchmark::State& s) { RunTorch(s, *w, rows); });
      ratios.push_back({on + " rows " + r + ": Linear / at::linear", on + "ours " + r, on + "torch " + r});
    }
  }
  for (const Weights* w : {&f32, &bf16}) {
    const std::string on = w == &f32 ? "f32/" : "bf16/";
    for (const int64_t rows : {32, 128, 512}) {
      const std::string r = std::to_string(rows);
      for (const bool ours : {true, false}) {
        benchmark::RegisterBenchmark((on + (ours ? "dx ours " : "dx torch ") + r).c_str(),
                                     [w, rows, ours](benchmark::State& s) { RunBackward(s, *w, rows, ours); })
            ->Unit(benchmark::kMillisecond)
            ->UseRealTime()
            ->Iterations(1);
      }
      ratios.push_back({on + " rows " + r + ": gradient of x / at::mm", on + "dx ours " + r, on + "dx torch " + r});
    }
  }
  const QuantizedWeights quantized;
  const auto add = [](const std::string& name, auto fn) {
    benchmark::RegisterBenchmark(name.c_str(), fn)->Unit(benchmark::kMillisecond)->UseRealTime()->Iterations(1);
  };
  for (const int64_t rows : {1, 4, 16, 32, 64, 256}) {
    const std::string r = std::to_string(rows);
    add("int8/ours " + r, [&quantized, rows](benchmark::State& s) { RunQuantized(s, quantized.int8, rows); });
    add("int4/ours " + r, [&quantized, rows](benchmark::State& s) { RunQuantized(s, quantized.int4, rows); });
    add("fp8/ours " + r, [&quantized, rows](benchmark::State& s) { RunQuantized(s, quantized.fp8, rows); });
    add("int8/torch " + r, [&quantized, rows](benchmark::State& s) {
      RunTorchQuantized(s, rows, [&](const at::Tensor& x, size_t i) {
        return at::_weight_int8pack_mm(x, quantized.torch_int8[i], quantized.int8_scales);
      });
    });
    add("int4/torch " + r, [&quantized, rows](benchmark::State& s) {
      RunTorchQuantized(s, rows, [&](const at::Tensor& x, size_t i) {
        return at::_weight_int4pack_mm_for_cpu(x, quantized.torch_int4[i], 64, quantized.int4_factors);
      });
    });
    ratios.push_back({"fp8 rows " + r + ": Linear / bf16 Linear", "fp8/ours " + r, "bf16/ours " + r});
    for (const std::string form : {"int8", "int4"}) {
      ratios.push_back({form + " rows " + r + ": Linear / bf16 Linear", form + "/ours " + r, "bf16/ours " + r});
      ratios.push_back(
          {form + " rows " + r + ": Linear / LibTorch's packed", form + "/ours " + r, form + "/torch " + r});
    }
  }
  return RunAndPrintRatios(argc, argv, ratios);
}
