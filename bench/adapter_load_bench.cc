// What a load of an adapter takes, from being wanted to lying in the pool on the host: read again from its folder (in
// the page cache), checked and packed, beside copied from what the host keeps. In turns, so that both see the same
// machine.
//
//   adapter_load_bench [smollm|tinyllama|llama3-8b] [rank] [rounds]
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "adapters/loader.h"
#include "adapters/warm_adapters.h"
#include "bench/adapter_folders.h"
#include "model/base/check.h"
#include "model/base/file_source.h"
#include "model/memory/pool_memory.h"

namespace lorad::bench {
namespace {

constexpr ModelShape kShapes[] = {{"smollm", 576, 30, 9, 3, 1536, 49152, true},
                                  {"tinyllama", 2048, 22, 32, 4, 5632, 32000, false},
                                  {"llama3-8b", 4096, 32, 32, 8, 14336, 128256, false}};

BaseShape BaseOf(const ModelShape& shape) {
  BaseShape base;
  base.num_layers = shape.layers;
  const int64_t kv = shape.hidden / shape.heads * shape.kv_heads;
  const struct {
    Site site;
    const char* name;
    int64_t out;
  } sites[] = {{Site::kQProj, "q_proj", shape.hidden},
               {Site::kKProj, "k_proj", kv},
               {Site::kVProj, "v_proj", kv},
               {Site::kOProj, "o_proj", shape.hidden}};
  for (const auto& each : sites) {
    base.sites.push_back({.site = each.site,
                          .module_path = std::string("model.layers.{}.self_attn.") + each.name,
                          .in_features = shape.hidden,
                          .out_features = each.out});
  }
  return base;
}

// The one event that each job is answered with.
class Answer final {
 public:
  void Put(LoaderEvent event) {
    const std::lock_guard<std::mutex> lock(mutex_);
    event_ = std::move(event);
    arrived_.notify_all();
  }
  template <typename Event>
  Event Take() {
    std::unique_lock<std::mutex> lock(mutex_);
    arrived_.wait(lock, [this] { return event_.has_value(); });
    if (const auto* failed = std::get_if<AdapterLoadFailed>(&*event_)) {
      std::fprintf(stderr, "%s\n", failed->status.ToString().c_str());
      std::exit(1);
    }
    Event event = std::get<Event>(*std::move(event_));
    event_.reset();
    return event;
  }

 private:
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::optional<LoaderEvent> event_;
};

double MsSince(std::chrono::steady_clock::time_point began) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - began).count();
}

// What a tenth of them stayed below: whoever else runs makes the others longer.
double Tenth(std::vector<double> values) {
  const auto at = values.begin() + std::ssize(values) / 10;
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

int Main(int argc, char** argv) {
  const std::string wanted = argc > 1 ? argv[1] : "smollm";
  const int64_t rank = argc > 2 ? std::atoll(argv[2]) : 16;
  const int rounds = argc > 3 ? std::atoi(argv[3]) : 30;
  const auto* const shape =
      std::find_if(std::begin(kShapes), std::end(kShapes), [&](const ModelShape& each) { return wanted == each.name; });
  if (shape == std::end(kShapes) || rank < 1 || rounds < 1) {
    std::fprintf(stderr, "%s [smollm|tinyllama|llama3-8b] [rank >= 1] [rounds >= 1]\n", argv[0]);
    return 2;
  }
  const AdapterFolders folders(*shape);
  const std::string folder = folders.Of(rank);
  const auto files = LocalFiles();
  Answer answer;
  AdapterLoader::Options options;
  options.pool_dtype = DType::kBF16;
  AdapterLoader loader(options, BaseOf(*shape), files.get(), [&](LoaderEvent event) { answer.Put(std::move(event)); });

  const auto stage = [&](const std::string& digest) {
    LORAD_CHECK(loader.Stage(1, folder, digest).ok());
    return answer.Take<AdapterStaged>();
  };
  const AdapterStaged first = stage("");
  const std::string digest = first.image->digest;
  const int64_t bytes = first.layout.total_bytes;
  const std::unique_ptr<PoolMemory> pool = MapHostMemory(2 * bytes).value();
  std::byte* const cold_at = pool->data();
  std::byte* const warm_at = pool->data() + bytes;
  WarmAdapters warm(2 * bytes + (1 << 20));
  const std::shared_ptr<PackedAdapter> kept = warm.Make(1, first.layout);
  LORAD_CHECK(kept != nullptr);
  LORAD_CHECK(loader.Pack(1, first.image, first.layout, warm_at, kept).ok());
  answer.Take<AdapterPacked>();

  std::vector<double> reading, keeping, copying;
  for (int round = 0; round < rounds; ++round) {
    auto began = std::chrono::steady_clock::now();
    AdapterStaged staged = stage(digest);
    LORAD_CHECK(loader.Pack(1, staged.image, staged.layout, cold_at).ok());
    answer.Take<AdapterPacked>();
    reading.push_back(MsSince(began));

    warm.Drop(2);
    began = std::chrono::steady_clock::now();
    staged = stage(digest);
    LORAD_CHECK(loader.Pack(2, staged.image, staged.layout, cold_at, warm.Make(2, staged.layout)).ok());
    answer.Take<AdapterPacked>();
    keeping.push_back(MsSince(began));

    began = std::chrono::steady_clock::now();
    LORAD_CHECK(loader.Copy(1, kept, warm_at).ok());
    answer.Take<AdapterPacked>();
    copying.push_back(MsSince(began));
    LORAD_CHECK(std::memcmp(kept->memory->data(), warm_at, static_cast<size_t>(bytes)) == 0);
  }
  std::printf("%s, rank %lld on q, k, v, o, bf16: %.2f MB; of %d rounds, what a tenth stayed below\n", shape->name,
              static_cast<long long>(rank), static_cast<double>(bytes) / 1e6, rounds);
  std::printf("read, checked, packed            %8.3f ms\n", Tenth(reading));
  std::printf("the same, and kept by the host   %8.3f ms\n", Tenth(keeping));
  std::printf("copied from what the host keeps  %8.3f ms\n", Tenth(copying));
  std::printf("read over copied                 %8.1f\n", Tenth(reading) / Tenth(copying));
  return 0;
}

}  // namespace
}  // namespace lorad::bench

int main(int argc, char** argv) { return lorad::bench::Main(argc, argv); }
