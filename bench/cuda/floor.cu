// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// bench/floor.cpp on a GPU: attend() against a plain read of the bytes it stores, compress()
// against a copy of its input on the device, then every kind of scorer against the same copy.
// Events time the stream; caches are rotated so that nothing stays in L2. Exits 77 where there is
// no GPU.

#include "support/floor.hpp"

#include <kvslim/kvslim.cuh>

#include <cstdlib>
#include <memory>
#include <string>

namespace {

using namespace kvslim;

void require(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "CUDA error %d\n", static_cast<int>(error));
  std::exit(1);
}
void require(status const& s) {
  if (s.ok()) return;
  std::fprintf(stderr, "%s\n", s.message);
  std::exit(1);
}

struct release {
  void operator()(void* memory) const { cudaFree(memory); }
};
template <class T>
using device = std::unique_ptr<T[], release>;
template <class T>
device<T> allocate(std::size_t count) {
  T* memory = nullptr;
  require(cudaMalloc(&memory, count * sizeof(T)));
  return device<T>(memory);
}

/// Seeded values, roughly normal, with outlier channels where asked; every index has its own.
template <class T>
struct noise_body {
  T* out;
  index_t dim;
  std::uint32_t seed;
  float outlier;
  __device__ void operator()(index_t i) const {
    float sum = -2.0f;
    std::uint32_t x = static_cast<std::uint32_t>(i) * 2654435761u + seed;
    for (int n = 0; n < 4; ++n) {
      x ^= x >> 16;
      x *= 0x7feb352du;
      x ^= x >> 15;
      sum += static_cast<float>(x >> 8) * (1.0f / 16777216.0f);
    }
    out[i] = from_float<T>(1.7f * sum + (i % dim % 29 == 3 ? outlier : 0.0f));
  }
};

/// Sums memory, 16 bytes per thread and step.
__global__ void plain_read_kernel(uint4 const* words, index_t count, unsigned* sink) {
  unsigned sum = 0;
  for (index_t i = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += static_cast<index_t>(gridDim.x) * blockDim.x) {
    uint4 const w = words[i];
    sum += w.x + w.y + w.z + w.w;
  }
  if (sum == 0x12345678u) *sink = sum;  // keeps the loads
}

class stopwatch {
 public:
  stopwatch() {
    require(cudaEventCreate(&begin_));
    require(cudaEventCreate(&end_));
  }
  stopwatch(stopwatch const&) = delete;
  stopwatch& operator=(stopwatch const&) = delete;
  ~stopwatch() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }
  template <class Body>
  double seconds(Body const& body) {
    require(cudaEventRecord(begin_, nullptr));
    body();
    require(cudaEventRecord(end_, nullptr));
    require(cudaEventSynchronize(end_));
    float ms = 0;
    require(cudaEventElapsedTime(&ms, begin_, end_));
    return ms * 1e-3;
  }

 private:
  cudaEvent_t begin_, end_;
};

constexpr index_t kv_heads = 8, q_heads = 32, dim = 128, window = 32;

/// One f16 layer and what scorers read, in device memory.
struct source {
  extents e;
  std::size_t elements;
  device<f16> k, v, copy;
  device<float> q, scores;

  source(index_t sequences, index_t tokens)
      : e{sequences, kv_heads, tokens, dim},
        elements(static_cast<std::size_t>(e.rows() * tokens * dim)),
        k(allocate<f16>(elements)),
        v(allocate<f16>(elements)),
        copy(allocate<f16>(2 * elements)),
        q(allocate<float>(static_cast<std::size_t>(sequences * q_heads * window * dim))),
        scores(allocate<float>(static_cast<std::size_t>(e.rows() * tokens))) {
    kvslim::cuda const exec{};
    require(detail::launch_for_each(exec, static_cast<index_t>(elements),
                                    noise_body<f16>{k.get(), dim, 1, 6.0f}));
    require(detail::launch_for_each(exec, static_cast<index_t>(elements),
                                    noise_body<f16>{v.get(), dim, 2, 0.0f}));
    require(detail::launch_for_each(exec, sequences * q_heads * window * dim,
                                    noise_body<float>{q.get(), dim, 3, 0.0f}));
    require(detail::launch_for_each(exec, e.rows() * tokens,
                                    noise_body<float>{scores.get(), dim, 4, 0.0f}));
  }
  auto queries(index_t n) const {
    return dense_rows<cuda_space, float const>(q.get(), {e.sequences, q_heads, n, dim});
  }
  auto view() const { return dense_cache<cuda_space, f16 const>(k.get(), v.get(), e); }
  void memcpy() const {
    require(cudaMemcpyAsync(copy.get(), k.get(), elements * sizeof(f16), cudaMemcpyDeviceToDevice,
                            nullptr));
    require(cudaMemcpyAsync(copy.get() + elements, v.get(), elements * sizeof(f16),
                            cudaMemcpyDeviceToDevice, nullptr));
  }
};

template <class Policy>
struct stored {
  using plan_type = decltype(make_plan(std::declval<Policy const&>(), extents{}));
  plan_type plan;
  device<std::byte> storage;
  packed_cache<typename plan_type::key_codec_type, typename plan_type::value_codec_type, cuda_space>
      packed;

  stored(Policy const& policy, source const& from)
      : plan(make_plan(policy, from.e)),
        storage(allocate<std::byte>(plan.packed_bytes())),
        packed(plan, storage.get(), plan.packed_bytes(), cuda_space{}) {}
  void compress(source const& from, device<std::byte> const& scratch) const {
    evidence const ev{window_queries<cuda_space>{from.queries(window)},
                      token_scores<cuda_space>{from.scores.get()}};
    require(kvslim::compress(kvslim::cuda{}, plan, from.view(), ev, packed,
                             {scratch.get(), plan.workspace_bytes()}));
  }
  /// Bytes held; read back once, outside of any timing.
  std::size_t bytes() const {
    packed_header header;
    require(cudaMemcpy(&header, storage.get(), sizeof header, cudaMemcpyDeviceToHost));
    return static_cast<std::size_t>(header.used_bytes);
  }
};

struct sizes {
  index_t sequences, tokens;
  std::size_t cold_bytes;
  int rounds;
  index_t blocks;  // that fill the device
};

template <class Policy>
void measure(char const* name, Policy const& policy, sizes const& s) {
  source const from(s.sequences, s.tokens);
  std::vector<std::unique_ptr<stored<Policy>>> sets;
  auto const scratch = allocate<std::byte>(make_plan(policy, from.e).workspace_bytes());
  std::size_t bytes = 0;
  do {
    sets.push_back(std::make_unique<stored<Policy>>(policy, from));
    sets.back()->compress(from, scratch);
    bytes = sets.back()->bytes();
  } while (bytes * sets.size() < s.cold_bytes);
  index_t const splits = detail::max(1, s.blocks / 2 / from.e.rows());
  std::size_t const parts_bytes = attend_bytes(sets.front()->plan.layout(), q_heads, 1, splits);
  auto const parts = allocate<std::byte>(parts_bytes);
  auto const out = allocate<float>(static_cast<std::size_t>(s.sequences * q_heads * (dim + 1)));
  auto const sink = allocate<unsigned>(1);
  auto const attend_all = [&] {
    attend_request<cuda_space> const request{
        .q = from.queries(1),
        .out = dense_rows<cuda_space>(out.get(), {s.sequences, q_heads, 1, dim}),
        .lse = out.get() + s.sequences * q_heads * dim,
        .splits = splits};
    for (auto const& set : sets)
      require(attend(kvslim::cuda{}, set->packed, request, {parts.get(), parts_bytes}));
  };
  auto const read_all = [&] {
    for (auto const& set : sets)
      require(detail::launch(kvslim::cuda{}, {s.blocks, 256}, plain_read_kernel,
                             reinterpret_cast<uint4 const*>(set->storage.get()),
                             static_cast<index_t>(bytes / 16), sink.get()));
  };
  auto const encode = [&] { sets.front()->compress(from, scratch); };
  bench::floor_rounds rounds;
  stopwatch clock;
  for (int i = -1; i < s.rounds; ++i) {  // the first warms up
    double const a = clock.seconds(attend_all), r = clock.seconds(read_all),
                 m = clock.seconds([&] { from.memcpy(); }), e = clock.seconds(encode);
    if (i < 0) continue;
    rounds.attend.push_back(r / a);
    rounds.encode.push_back(m / e);
    rounds.gigabytes.push_back(static_cast<double>(bytes * sets.size()) / a * 1e-9);
  }
  bench::print_floor(name, s.tokens,
                     static_cast<double>(bytes) / static_cast<double>(s.tokens * s.sequences),
                     rounds);
}

}  // namespace

int main(int argc, char** argv) {
  bool const smoke = argc > 1 && std::string(argv[1]) == "--smoke";
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
    std::printf("SKIPPED: no GPU\n");
    return 77;
  }
  cudaDeviceProp properties;
  require(cudaGetDeviceProperties(&properties, 0));
  constexpr std::size_t cold = std::size_t{1} << 30;
  for (sizes const& s :
       smoke ? std::vector<sizes>{{1, 64, 1, 1, 4}}
             : std::vector<sizes>{{1, 32768, cold, 9, 1056}, {32, 4096, cold, 9, 1056}}) {
    std::printf("%s, %lld sequences, 32 query and 8 KV heads of 128, K and V together\n",
                properties.name, static_cast<long long>(s.sequences));
    bench::print_floor_head();
    measure("f16", dense<f16>{}, s);
    if (smoke) break;
    measure("int8 per token", int_per_token<8>{}, s);
    measure("int4 per token", int_per_token<4>{}, s);
    measure("KIVI 8 bit", kivi<8>{}, s);
    measure("KIVI 4 bit", kivi<4>{}, s);
    measure("KIVI 2 bit", kivi<2>{}, s);
    top_k const quarter{{.budget = s.tokens / 4, .sinks = 4, .recent = 16}};
    measure("StreamingLLM 25%", pipeline{streaming_llm{}, quarter}, s);
    measure("Knorm 25%", pipeline{knorm{}, quarter}, s);
    measure("SnapKV 25%", pipeline{snapkv{}, quarter}, s);
    measure("+ KVMerger", pipeline{snapkv{}, quarter, kvmerger{{.threshold = 0.75f}}}, s);
  }
  return 0;
}
