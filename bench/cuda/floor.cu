// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// What the verbs cost on a GPU, each beside a plain read of 1 GiB that takes turns with it: attend,
// compress, append and settle over stored forms, scores, selection and compaction. All is captured
// in graphs; caches are rotated so that nothing stays in L2. --csv PATH writes one line for every
// verb, form and shape; the table comes last. Exits 77 where there is no GPU.

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

/// What body(executor) enqueues, to be launched again and again.
class graph {
 public:
  template <class Body>
  graph(cudaStream_t stream, Body const& body) : stream_(stream) {
    cudaGraph_t captured;
    require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    body(kvslim::cuda{stream});
    require(cudaStreamEndCapture(stream, &captured));
    require(cudaGraphInstantiate(&graph_, captured, 0));
    require(cudaGraphDestroy(captured));
  }
  graph(graph const&) = delete;
  graph& operator=(graph const&) = delete;
  ~graph() { cudaGraphExecDestroy(graph_); }
  void launch() const { require(cudaGraphLaunch(graph_, stream_)); }

 private:
  cudaStream_t stream_;
  cudaGraphExec_t graph_;
};

struct sizes {
  index_t sequences, tokens;
};

/// The device, the clock, and what was measured.
class session {
 public:
  session(bool smoke, char const* csv)
      : cold_bytes(smoke ? 1 : std::size_t{1} << 30),
        blocks(smoke ? 2 : 1056),
        rounds_(smoke ? 1 : 20),
        read_bytes_(smoke ? 1 << 16 : 1 << 30),
        memory_(allocate<uint4>(read_bytes_ / sizeof(uint4))),
        sink_(allocate<unsigned>(1)) {
    cudaDeviceProp properties;
    require(cudaGetDeviceProperties(&properties, 0));
    device_ = properties.name;
    require(cudaStreamCreate(&stream));
    require(cudaEventCreate(&begin_));
    require(cudaEventCreate(&end_));
    require(detail::fill_bytes(exec(), memory_.get(), 1, static_cast<index_t>(read_bytes_)));
    reading_ = std::make_unique<graph>(stream, [&](kvslim::cuda to) {
      require(detail::launch(to, {blocks, 256}, plain_read_kernel, memory_.get(),
                             static_cast<index_t>(read_bytes_ / sizeof(uint4)), sink_.get()));
    });
    if (csv == nullptr) return;
    csv_ = std::fopen(csv, "w");
    if (csv_ == nullptr) {
      std::fprintf(stderr, "%s cannot be written\n", csv);
      std::exit(1);
    }
    std::fprintf(csv_,
                 "device,verb,form,sequences,tokens,bytes,us_low,us_median,us_high,read_gb_per_s,"
                 "of_read_low,of_read_median,of_read_high\n");
  }
  session(session const&) = delete;
  session& operator=(session const&) = delete;
  ~session() {
    if (csv_ != nullptr) std::fclose(csv_);
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
    cudaStreamDestroy(stream);
  }

  [[nodiscard]] kvslim::cuda exec() const { return {stream}; }
  void wait() const { require(cudaStreamSynchronize(stream)); }

  /// `body` makes `calls` calls that move `bytes` each; `before` restores what they change and is
  /// not timed.
  template <class Body, class Before>
  void time(char const* verb, char const* form, sizes const& s, index_t calls, double bytes,
            Body const& body, Before const& before) {
    graph const work(stream, body), restore(stream, before);
    std::vector<double> microseconds, gigabytes, of_read;
    for (int i = -1; i < rounds_; ++i) {  // the first warms up
      double const read = seconds(*reading_);
      restore.launch();
      double const each = seconds(work) / static_cast<double>(calls);
      if (i < 0) continue;
      double const rate = static_cast<double>(read_bytes_) / read;
      microseconds.push_back(each * 1e6);
      gigabytes.push_back(rate * 1e-9);
      of_read.push_back(bytes / each / rate);
    }
    line const x{verb,
                 form,
                 s,
                 bytes,
                 bench::quartiles(microseconds),
                 bench::quartiles(gigabytes).median,
                 bench::quartiles(of_read)};
    lines_.push_back(x);
    if (csv_ == nullptr) return;
    std::fprintf(csv_, "%s,%s,%s,%lld,%lld,%.0f,%.3f,%.3f,%.3f,%.1f,%.4f,%.4f,%.4f\n",
                 device_.c_str(), verb, form, static_cast<long long>(s.sequences),
                 static_cast<long long>(s.tokens), bytes, x.us.low, x.us.median, x.us.high, x.read,
                 x.share.low, x.share.median, x.share.high);
    std::fflush(csv_);
  }
  template <class Body>
  void time(char const* verb, char const* form, sizes const& s, index_t calls, double bytes,
            Body const& body) {
    time(verb, form, s, calls, bytes, body, [](kvslim::cuda) {});
  }

  void print() const {
    std::printf("%s; medians of %d, 32 query and 8 KV heads of 128, K and V together\n",
                device_.c_str(), rounds_);
    std::printf("%-22s %-18s %5s %7s %12s %10s %24s\n", "verb", "form", "seq", "tokens", "us",
                "GB/s", "of a plain read");
    for (line const& x : lines_)
      std::printf("%-22s %-18s %5lld %7lld %12.2f %10.1f %9.1f %% [%5.1f-%5.1f]\n", x.verb, x.form,
                  static_cast<long long>(x.shape.sequences), static_cast<long long>(x.shape.tokens),
                  x.us.median, x.bytes / x.us.median * 1e-3, 100 * x.share.median,
                  100 * x.share.low, 100 * x.share.high);
  }

  cudaStream_t stream;
  std::size_t cold_bytes;
  index_t blocks;  ///< that fill the device

 private:
  struct line {
    char const *verb, *form;
    sizes shape;
    double bytes;
    bench::spread us;
    double read;
    bench::spread share;
  };
  double seconds(graph const& work) const {
    float ms = 0;
    require(cudaEventRecord(begin_, stream));
    work.launch();
    require(cudaEventRecord(end_, stream));
    require(cudaEventSynchronize(end_));
    require(cudaEventElapsedTime(&ms, begin_, end_));
    return ms * 1e-3;
  }

  int rounds_;
  std::size_t read_bytes_;
  device<uint4> memory_;
  device<unsigned> sink_;
  std::string device_;
  std::unique_ptr<graph> reading_;
  cudaEvent_t begin_, end_;
  std::FILE* csv_ = nullptr;
  std::vector<line> lines_;
};

constexpr index_t kv_heads = 8, q_heads = 32, dim = 128, window = 32, newer = 32;

/// One f16 layer and what scorers read, in device memory.
struct source {
  extents e;
  std::size_t elements;
  device<f16> k, v;
  device<float> q, scores;

  source(session const& on, sizes const& s)
      : e{s.sequences, kv_heads, s.tokens, dim},
        elements(static_cast<std::size_t>(e.rows() * s.tokens * dim)),
        k(allocate<f16>(elements)),
        v(allocate<f16>(elements)),
        q(allocate<float>(static_cast<std::size_t>(s.sequences * q_heads * window * dim))),
        scores(allocate<float>(static_cast<std::size_t>(e.rows() * s.tokens))) {
    fill(on, k.get(), static_cast<index_t>(elements), 1, 6.0f);
    fill(on, v.get(), static_cast<index_t>(elements), 2, 0.0f);
    fill(on, q.get(), s.sequences * q_heads * window * dim, 3, 0.0f);
    fill(on, scores.get(), e.rows() * s.tokens, 4, 0.0f);
  }
  template <class T>
  static void fill(session const& on, T* to, index_t count, std::uint32_t seed, float outlier) {
    require(detail::launch_for_each(on.exec(), count, noise_body<T>{to, dim, seed, outlier}));
  }
  auto queries(index_t n) const {
    return dense_rows<cuda_space, float const>(q.get(), {e.sequences, q_heads, n, dim});
  }
  /// The first n tokens of K or V as rows of their own.
  auto newest(device<f16> const& from, index_t n) const {
    return dense_rows<cuda_space, f16 const>(from.get(), {e.sequences, kv_heads, n, dim});
  }
  auto view() const { return dense_cache<cuda_space, f16 const>(k.get(), v.get(), e); }
  auto evidence() const {
    return kvslim::evidence{window_queries<cuda_space>{queries(window)},
                            token_scores<cuda_space>{scores.get()}};
  }
  [[nodiscard]] double bytes() const { return 4.0 * static_cast<double>(elements); }
};

template <class Policy>
struct stored {
  using plan_type = decltype(make_plan(std::declval<Policy const&>(), extents{}, plan_options{}));
  plan_type plan;
  device<std::byte> storage;
  packed_cache<typename plan_type::key_codec_type, typename plan_type::value_codec_type, cuda_space>
      packed;

  stored(Policy const& policy, source const& from, index_t room = 0)
      : plan(make_plan(policy, from.e, {.append_tokens = room})),
        storage(allocate<std::byte>(plan.packed_bytes())),
        packed(plan, storage.get(), plan.packed_bytes(), cuda_space{}) {}
  void compress(kvslim::cuda exec, source const& from, device<std::byte> const& scratch) const {
    require(kvslim::compress(exec, plan, from.view(), from.evidence(), packed,
                             {scratch.get(), plan.workspace_bytes()}));
  }
  /// Bytes held; read back once, outside of any timing.
  std::size_t bytes() const {
    packed_header header;
    require(cudaMemcpy(&header, storage.get(), sizeof header, cudaMemcpyDeviceToHost));
    return static_cast<std::size_t>(header.used_bytes);
  }
};

/// compress, and attend over what it stored.
template <class Policy>
void attend_and_compress(session& on, char const* form, Policy const& policy, sizes const& s) {
  source const from(on, s);
  std::vector<std::unique_ptr<stored<Policy>>> sets;
  auto const scratch = allocate<std::byte>(make_plan(policy, from.e).workspace_bytes());
  std::size_t bytes = 0;
  do {
    sets.push_back(std::make_unique<stored<Policy>>(policy, from));
    sets.back()->compress(on.exec(), from, scratch);
    on.wait();
    bytes = sets.back()->bytes();
  } while (bytes * sets.size() < on.cold_bytes);
  index_t const splits = detail::max(1, on.blocks / 2 / from.e.rows());
  std::size_t const parts_bytes =
      attend_bytes(on.exec(), sets.front()->plan.layout(), q_heads, 1, splits);
  auto const parts = allocate<std::byte>(parts_bytes);
  auto const out = allocate<float>(static_cast<std::size_t>(s.sequences * q_heads * (dim + 1)));
  auto const held = static_cast<double>(bytes);
  on.time("attend", form, s, static_cast<index_t>(sets.size()), held, [&](kvslim::cuda exec) {
    attend_request<cuda_space> const request{
        .q = from.queries(1),
        .out = dense_rows<cuda_space>(out.get(), {s.sequences, q_heads, 1, dim}),
        .lse = out.get() + s.sequences * q_heads * dim,
        .splits = splits};
    for (auto const& set : sets)
      require(attend(exec, set->packed, request, {parts.get(), parts_bytes}));
  });
  on.time("compress", form, s, 1, from.bytes() + held,
          [&](kvslim::cuda exec) { sets.front()->compress(exec, from, scratch); });
}

/// append of one and of `newer` tokens, and the settle that codes what `newer` pushed out.
template <class Policy>
void append_and_settle(session& on, char const* form, Policy const& policy, sizes const& s) {
  source const from(on, s);
  stored<Policy> const set(policy, from, newer);
  auto const size = static_cast<index_t>(set.plan.packed_bytes());
  auto const bytes = std::max({set.plan.workspace_bytes(), append_bytes(set.plan.layout()),
                               settle_bytes(set.plan.layout())});
  auto const scratch = allocate<std::byte>(bytes);
  workspace const memory{scratch.get(), bytes};
  set.compress(on.exec(), from, scratch);
  auto const image = allocate<std::byte>(set.plan.packed_bytes());
  require(detail::copy_bytes(on.exec(), image.get(), set.storage.get(), size));
  on.wait();
  auto const restore = [&](kvslim::cuda exec) {
    require(detail::copy_bytes(exec, set.storage.get(), image.get(), size));
  };
  auto const add = [&](kvslim::cuda exec, index_t n) {
    require(append(exec, set.packed, from.newest(from.k, n), from.newest(from.v, n), memory));
  };
  double const one = 2.0 * 4.0 * static_cast<double>(from.e.rows() * dim);  // read, written: f16
  on.time(
      "append 1", form, s, 1, one, [&](kvslim::cuda exec) { add(exec, 1); }, restore);
  on.time(
      "append 32", form, s, 1, one * newer, [&](kvslim::cuda exec) { add(exec, newer); }, restore);
  on.time(
      "settle 32", form, s, 1, one * newer,
      [&](kvslim::cuda exec) { require(settle(exec, set.packed, memory)); },
      [&](kvslim::cuda exec) {
        restore(exec);
        add(exec, newer);
      });
}

/// The scores of a policy; `bytes`: what it must read.
template <class Scorer>
void score_alone(session& on, char const* name, Scorer const& scorer, sizes const& s) {
  source const from(on, s);
  auto const plan = make_plan(
      pipeline{scorer, top_k{{.budget = s.tokens / 4, .sinks = 4, .recent = 16}}}, from.e);
  auto const bytes = plan.select_bytes() + plan.keep_bytes();
  auto const scratch = allocate<std::byte>(bytes);
  auto const out = allocate<float>(static_cast<std::size_t>(from.e.rows() * s.tokens));
  on.time("score", name, s, 1, 0.5 * from.bytes(), [&](kvslim::cuda exec) {
    require(score(exec, plan, from.view(), from.evidence(), score_view{out.get(), s.tokens},
                  {scratch.get(), bytes}));
  });
}

/// Selection of a quarter by given scores, and the move of what stays.
void select_and_compact(session& on, sizes const& s) {
  source const from(on, s);
  auto const plan = make_plan(
      pipeline{given_scores{}, top_k{{.budget = s.tokens / 4, .sinks = 4, .recent = 16}}}, from.e);
  auto const scratch = allocate<std::byte>(plan.select_bytes());
  auto const memory = allocate<std::byte>(plan.keep_bytes());
  auto keep = plan.keep({memory.get(), plan.keep_bytes()});
  on.time("select", "a quarter", s, 1, 4.0 * static_cast<double>(from.e.rows() * s.tokens),
          [&](kvslim::cuda exec) {
            require(select(exec, plan, from.view(), from.evidence(), keep,
                           {scratch.get(), plan.select_bytes()}));
          });
  auto const engine = dense_cache<cuda_space>(from.k.get(), from.v.get(), from.e);
  on.time("compact", "a quarter", s, 1, 0.5 * from.bytes(),
          [&](kvslim::cuda exec) { require(ops::compact(exec, engine, engine, keep)); });
}

}  // namespace

int main(int argc, char** argv) {
  bool smoke = false;
  char const* csv = nullptr;
  for (int i = 1; i < argc; ++i) {
    if (std::string(argv[i]) == "--smoke")
      smoke = true;
    else if (std::string(argv[i]) == "--csv" && i + 1 < argc)
      csv = argv[++i];
    else
      return std::fprintf(stderr, "usage: %s [--smoke] [--csv PATH]\n", argv[0]), 2;
  }
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
    std::printf("SKIPPED: no GPU\n");
    return 77;
  }
  session on(smoke, csv);
  auto const shapes = smoke ? std::vector<sizes>{{1, 64}}
                            : std::vector<sizes>{{1, 4096}, {1, 16384}, {1, 65536}, {32, 4096}};
  for (sizes const& s : shapes) {
    attend_and_compress(on, "f16", dense<f16>{}, s);
    append_and_settle(on, "KIVI 4 bit", kivi<4>{}, s);
    select_and_compact(on, s);
    if (smoke) continue;
    attend_and_compress(on, "int8 per token", int_per_token<8>{}, s);
    attend_and_compress(on, "int4 per token", int_per_token<4>{}, s);
    attend_and_compress(on, "KIVI 8 bit", kivi<8>{}, s);
    attend_and_compress(on, "KIVI 4 bit", kivi<4>{}, s);
    attend_and_compress(on, "KIVI 2 bit", kivi<2>{}, s);
    attend_and_compress(on, "fp8", fp8<>{}, s);
    attend_and_compress(on, "GEAR 4 bit", gear<4>{}, s);
    attend_and_compress(on, "centred 4 bit", centred<4>{}, s);
    append_and_settle(on, "int4 per token", int_per_token<4>{}, s);
    append_and_settle(on, "centred 4 bit", centred<4>{}, s);
    score_alone(on, "Knorm", knorm{}, s);
    score_alone(on, "SnapKV", snapkv{}, s);
    score_alone(on, "attention mass", h2o<>{}, s);
  }
  on.print();
  return 0;
}
