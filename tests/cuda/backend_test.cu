// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// The same policies, plans and data on both backends: identical kept sets, codes and stored bytes,
// attention within the bound. Exits 77 (skipped) where there is no GPU. Run under compute-sanitizer
// where there is one.

#include "support/data.hpp"
#include "support/tolerance.hpp"

#include <kvslim/kvslim.cuh>

#include <cstdio>
#include <cstring>

using namespace kvslim;

namespace {

int failures = 0;

void check(bool good, char const* what, char const* name) {
  if (good) return;
  std::printf("FAILED: %s: %s\n", name, what);
  ++failures;
}

/// Device memory, filled from the host.
template <class T>
class device {
 public:
  explicit device(std::size_t count) : count_(count) {
    check(cudaMalloc(&data_, count * sizeof(T)) == cudaSuccess, "cudaMalloc", "device");
  }
  explicit device(std::vector<T> const& host) : device(host.size()) {
    cudaMemcpy(data_, host.data(), count_ * sizeof(T), cudaMemcpyHostToDevice);
  }
  device(device const&) = delete;
  device& operator=(device const&) = delete;
  ~device() { cudaFree(data_); }
  T* get() const { return data_; }
  std::vector<T> host() const {
    std::vector<T> out(count_);
    cudaMemcpy(out.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost);
    return out;
  }

 private:
  T* data_ = nullptr;
  std::size_t count_;
};

struct short_values {
  using stage = scorer_tag;
  KVSLIM_HD float score(auto const& token) const {
    float sum = 0;
    for (float x : token.value()) sum += x * x;
    return -sum;
  }
};

/// Codecs that no .cuh knows: warps then encode and read with nothing but the codec.
struct own_key : token_key<4> {};
struct own_value : token_value<8> {};
struct own_codecs {
  using stage = quantizer_tag;
  [[nodiscard]] KVSLIM_HD constexpr own_key key_codec() const noexcept {
    return {{.residual = 20}};
  }
  [[nodiscard]] KVSLIM_HD constexpr own_value value_codec() const noexcept {
    return {{.group = 0, .residual = 20}};
  }
  [[nodiscard]] KVSLIM_HD static constexpr std::uint32_t scheme() noexcept { return 0xf003; }
};

/// Blocks shared by two sequences, and a state: both rows of a token as differences from the first
/// token.
struct paired {
  using tail_type = float;
  [[nodiscard]] KVSLIM_HD constexpr row_group group() const noexcept { return {.sequences = 2}; }
  [[nodiscard]] KVSLIM_HD status check(index_t) const noexcept { return {}; }
  [[nodiscard]] KVSLIM_HD constexpr index_t block_tokens() const noexcept { return 1; }
  [[nodiscard]] KVSLIM_HD constexpr index_t block_bytes(index_t dim) const noexcept {
    return 8 * dim;
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t coded(index_t n) const noexcept {
    return detail::max(0, n - 5);
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t tail_tokens() const noexcept { return 6; }
  [[nodiscard]] KVSLIM_HD constexpr bool whole_blocks() const noexcept { return false; }
  [[nodiscard]] KVSLIM_HD constexpr index_t state_bytes(index_t dim, index_t) const noexcept {
    return 8 * dim;
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t fit_floats(index_t, index_t) const noexcept {
    return 0;
  }
  template <class Read>
  KVSLIM_HD void fit(Read const& read, index_t tokens, block_run const& run, std::byte* state,
                     float*) const noexcept {
    for (index_t m = 0; m < 2 && tokens > 0; ++m)
      read(m, 0, reinterpret_cast<float*>(state) + m * run.dim);
  }
  KVSLIM_HD void encode(float const* rows, block_run const& run, std::byte* block) const noexcept {
    auto const* const first = reinterpret_cast<float const*>(run.state);
    for (index_t i = 0; i < 2 * run.dim; ++i)
      reinterpret_cast<float*>(block)[i] = rows[i] - first[i];
  }
  [[nodiscard]] KVSLIM_HD float decode(std::byte const* block, block_run const& run,
                                       index_t d) const noexcept {
    index_t const i = run.member * run.dim + d;
    return reinterpret_cast<float const*>(block)[i] + reinterpret_cast<float const*>(run.state)[i];
  }
  KVSLIM_HD void dot(std::byte const* block, block_run const& run, float const* q, index_t heads,
                     float* scores) const noexcept {
    for (index_t h = 0; h < heads; ++h)
      for (index_t i = 0; i < run.n; ++i)
        for (index_t d = 0; d < run.dim; ++d)
          scores[h * run_tokens + i] +=
              q[h * run.dim + d] * decode(block + i * block_bytes(run.dim), run, d);
  }
  KVSLIM_HD void accumulate(std::byte const* block, block_run const& run, float const* p,
                            index_t heads, float* out) const noexcept {
    for (index_t h = 0; h < heads; ++h)
      for (index_t i = 0; i < run.n; ++i)
        for (index_t d = 0; d < run.dim; ++d)
          out[h * run.dim + d] +=
              p[h * run_tokens + i] * decode(block + i * block_bytes(run.dim), run, d);
  }
};
static_assert(fitted_codec<paired> &&
              !fitted_codec<own_key>);  // nvcc has its own mind about requirements

struct paired_sequences {
  using stage = quantizer_tag;
  [[nodiscard]] KVSLIM_HD constexpr paired key_codec() const noexcept { return {}; }
  [[nodiscard]] KVSLIM_HD constexpr paired value_codec() const noexcept { return {}; }
  [[nodiscard]] KVSLIM_HD static constexpr std::uint32_t scheme() noexcept { return 0xf004; }
};

/// What the backends are compared on. With pages, memory is permuted, sequences are ragged, some
/// tokens are padding and positions have gaps.
struct problem {
  data::shape shape;
  index_t page_size = 0;
};

/// K and V of a host view, its page table and what it knows about tokens, copied to the device.
template <class T>
struct device_cache {
  device<T> k, v;
  device<std::int32_t> table, lengths, positions;
  device<std::uint8_t> valid;
  device<float> log_weight;

  template <class View>
  device_cache(View const& host, std::size_t elements, std::vector<std::int32_t> const& pages)
      : k({host.k.data, host.k.data + elements}),
        v({host.v.data, host.v.data + elements}),
        table(pages),
        lengths(copy(host.lengths, host.extent.sequences)),
        positions(copy(host.positions, host.extent.sequences * host.extent.tokens)),
        valid(copy(host.valid, host.extent.sequences * host.extent.tokens)),
        log_weight(copy(host.log_weight, host.extent.sequences * host.extent.tokens)) {}

  template <class Key>
  auto view(cache_view<Key> const& host) const {
    auto layout = host.k.layout;
    if constexpr (requires { layout.table; }) layout.table = table.get();
    using device_plane = plane<T const, decltype(layout), cuda_space>;
    auto const keep = [](auto const* host_array, auto const* device_array) {
      return host_array == nullptr ? nullptr : device_array;
    };
    return cache_view<device_plane>{
        host.extent,
        {k.get(), layout},
        {v.get(), layout},
        keep(host.lengths, static_cast<std::int32_t const*>(lengths.get())),
        keep(host.positions, static_cast<std::int32_t const*>(positions.get())),
        keep(host.valid, static_cast<std::uint8_t const*>(valid.get())),
        keep(host.log_weight, static_cast<float const*>(log_weight.get()))};
  }

 private:
  template <class A>
  static std::vector<A> copy(A const* from, index_t count) {
    return from == nullptr ? std::vector<A>(1) : std::vector<A>(from, from + count);
  }
};

/// Relative L2 distance.
double distance(std::vector<float> const& a, std::vector<float> const& b) {
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    error += std::pow(a[i] - b[i], 2), norm += std::pow(b[i], 2);
  return std::sqrt(error / norm);
}

/// `exact`: selection depends on no rounding that may differ between the backends, so the stored
/// bytes must be equal.
template <class Policy, class View, class DeviceView>
void compare(char const* name, Policy const& policy, bool exact, data::cache const& c,
             View const& view, DeviceView const& device_view) {
  auto const& shape = c.shape;
  index_t const appended = 70, heads = shape.kv_heads * shape.group, window = 16,
                dim = shape.head_dim, rows_count = shape.sequences * shape.kv_heads;
  std::vector<float> scores(static_cast<std::size_t>(rows_count * shape.tokens));
  for (std::size_t i = 0; i < scores.size(); ++i) scores[i] = static_cast<float>(i * 7919 % 211);
  data::compressed const host(
      policy, view, evidence{window_queries{c.queries(window)}, token_scores<>{scores.data()}},
      appended);
  check(host.result.ok(), host.result.message, name);

  device<float> const q(c.q), given(scores);
  auto const& plan = host.plan;
  device<std::byte> const storage(plan.packed_bytes()), scratch(plan.workspace_bytes());
  packed_cache const packed(plan, storage.get(), plan.packed_bytes(), cuda_space{});
  auto const rows = [&](float const* data, index_t n) {
    return rows_view<float const, cuda_space>{
        data,  shape.sequences,
        heads, n,
        dim,   {heads * data::cache::window * dim, data::cache::window * dim, dim, 1}};
  };
  cuda const exec{nullptr};
  evidence const ev{window_queries<float, cuda_space>{rows(q.get(), window)},
                    token_scores<cuda_space>{given.get()}};
  check(compress(exec, plan, device_view, ev, packed, scratch.get(), plan.workspace_bytes() - 1)
                .code == errc::buffer_too_small,
        "a small workspace", name);
  auto const done =
      compress(exec, plan, device_view, ev, packed, scratch.get(), plan.workspace_bytes());
  check(done.ok(), done.message, name);
  check(cudaDeviceSynchronize() == cudaSuccess, "compress ran", name);

  rows_shape const one{shape.sequences, shape.kv_heads, 1, dim};
  std::vector<float> appended_rows(static_cast<std::size_t>(rows_count * dim)),
      host_scratch(append_scratch_floats(plan));
  device<float> const device_scratch(host_scratch);
  for (index_t i = 0; i < appended; ++i) {
    for (std::size_t j = 0; j < appended_rows.size(); ++j)
      appended_rows[j] =
          static_cast<float>((i * 31 + static_cast<index_t>(j) * 17) % 64) / 16.0f - 2.0f;
    auto const h = dense_rows<host_space, float const>(appended_rows.data(), one);
    check(append(cpu{}, host.packed, h, h, host_scratch.data()).ok(), "append on the CPU", name);
    device<float> const row(appended_rows);
    auto const d = dense_rows<cuda_space, float const>(row.get(), one);
    check(append(exec, packed, d, d, device_scratch.get()).ok(), "append on CUDA", name);
    check(cudaDeviceSynchronize() == cudaSuccess, "append ran", name);
  }
  auto const bytes = storage.host();
  auto const used = host.packed.bytes();
  // Kept tokens must be the same for every method, whatever its scores were rounded to.
  data::buffer mirror(plan.packed_bytes());
  std::memcpy(mirror.data(), bytes.data(), bytes.size());
  packed_cache const read_back(plan, mirror);
  for (index_t s = 0; s < shape.sequences; ++s)
    for (index_t h = 0; h < shape.kv_heads; ++h) {
      bool same = read_back.tokens(s, h) == host.packed.tokens(s, h) &&
                  read_back.next_position(s, h) == host.packed.next_position(s, h);
      for (index_t t = 0; same && t < host.packed.tokens(s, h); ++t)
        same = read_back.position(s, h, t) == host.packed.position(s, h, t);
      check(same, "kept tokens are equal", name);
    }
  if (exact)
    check(std::memcmp(bytes.data(), host.storage.data(), used) == 0, "stored bytes are equal",
          name);

  // Attention of both backends over the CPU's stored bytes, so that this check stands alone.
  device<std::byte> const same(
      std::vector<std::byte>(host.storage.data(), host.storage.data() + plan.packed_bytes()));
  packed_cache const copy(plan, same.get(), plan.packed_bytes(), cuda_space{});
  std::vector<float> out(static_cast<std::size_t>(shape.sequences * heads * dim)),
      lse(static_cast<std::size_t>(shape.sequences * heads));
  rows_shape const out_shape{shape.sequences, heads, 1, dim};
  check(
      attend(cpu{}, c.queries(1), host.packed, dense_rows(out.data(), out_shape), lse.data()).ok(),
      "attend on the CPU", name);
  double worst = 0;
  for (index_t const splits : {1, 3}) {
    device<float> const device_out(out.size()), device_lse(lse.size());
    device<float> const parts(attend_scratch_floats(plan, heads, splits) + 1);
    auto const device_rows = dense_rows<cuda_space>(device_out.get(), out_shape);
    attend_options const cut{.splits = splits, .scratch = parts.get()};
    check(attend(exec, rows(q.get(), 1), copy, device_rows, device_lse.get(), {.splits = 0}).code ==
              errc::invalid_option,
          "no splits", name);
    check(attend(exec, rows(q.get(), 1), copy, device_rows, device_lse.get(), {.splits = 2}).code ==
              errc::invalid_pointer,
          "no scratch", name);
    check(attend(exec, rows(q.get(), 1), copy, device_rows, device_lse.get(), cut).ok(),
          "attend on CUDA", name);
    check(cudaDeviceSynchronize() == cudaSuccess, "attend ran", name);
    double const error = distance(device_out.host(), out);
    check(error <= tolerance::attend, "attention within the bound", name);
    check(distance(device_lse.host(), lse) <= tolerance::attend, "log-sum-exp within the bound",
          name);
    worst = error > worst ? error : worst;
  }
  std::printf("  %-24s relative error of attention %.2e\n", name, worst);
}

/// f32 contiguous, f16 in pages: every other pair would double what nvcc has to compile.
template <class T, class Policy>
void both(problem const& p, char const* name, Policy const& policy, bool exact) {
  data::cache const c(p.shape);
  data::layouts<T> memory(c);
  auto const& s = p.shape;
  auto const per_token = static_cast<std::size_t>(s.kv_heads * s.head_dim),
             all = static_cast<std::size_t>(s.sequences * s.tokens);
  if constexpr (std::same_as<T, float>) {
    auto const view = memory.dense();
    device_cache<T> const copy(view, all * per_token, {0});
    compare(name, policy, exact, c, view, copy.view(view));
  } else {
    auto view = memory.pages(p.page_size);
    std::vector<std::int32_t> lengths, positions(all);
    std::vector<std::uint8_t> valid(all, 1);
    std::vector<float> weights(all);
    for (index_t i = 0; i < s.sequences; ++i)
      lengths.push_back(static_cast<std::int32_t>(i % 2 == 0 ? s.tokens : s.tokens / 2 + 3));
    for (std::size_t i = 0; i < all; ++i) {
      positions[i] = static_cast<std::int32_t>(3 * (i % static_cast<std::size_t>(s.tokens)) + 5);
      valid[i] = i % 11 == 2 ? 0 : 1;
      weights[i] = static_cast<float>(i % 4) * 0.5f;
    }
    view.lengths = lengths.data();
    view.valid = valid.data();
    view.positions = positions.data();
    if (make_plan(policy, s.extents()).keeps_log_weight()) view.log_weight = weights.data();
    auto const pages = s.sequences * view.k.layout.table_width;
    device_cache<T> const copy(view, static_cast<std::size_t>(pages * p.page_size) * per_token,
                               {view.k.layout.table, view.k.layout.table + pages});
    compare(name, policy, exact, c, view, copy.view(view));
  }
}

/// One method of each kind.
template <class T>
void some_methods(char const* title, problem const& p) {
  std::printf("%s\n", title);
  top_k const keep{{.budget = p.shape.tokens / 2 - 1, .sinks = 4, .recent = 8}};
  both<T>(p, "dense f16", dense<f16>{}, true);
  both<T>(p, "kivi 2", kivi<2>{{.residual = 64}}, true);
  both<T>(p, "int 4", int_per_token<4>{}, true);
  both<T>(p, "streaming_llm rerotated",
          pipeline{streaming_llm{}, keep, rerotate{}, int_per_token<8>{}}, false);
  both<T>(p, "given scores", pipeline{given_scores{}, keep}, true);
  both<T>(
      p, "snapkv max, heads summed",
      pipeline{
          snapkv{{.window = 16, .pool = 3, .kind = pooling::maximum, .heads = head_reduction::sum}},
          keep},
      false);
  both<T>(p, "snapkv kvmerger kivi",
          pipeline{snapkv{{.window = 16}}, keep, kvmerger{{.threshold = 0.5f, .mass_bias = true}},
                   kivi<2>{{.residual = 32}}},
          false);
}

template <class T>
void all_methods(char const* title, problem const& p) {
  some_methods<T>(title, p);
  index_t const tokens = p.shape.tokens;
  top_k const keep{{.budget = tokens / 2 - 1, .sinks = 4, .recent = 8}};
  both<T>(p, "kivi 4", kivi<4>{{.residual = 32}}, true);
  both<T>(p, "kivi 8", kivi<8>{{.residual = 32}}, true);
  both<T>(p, "int 8", int_per_token<8>{}, true);
  both<T>(p, "streaming_llm", pipeline{streaming_llm{}, keep}, true);
  both<T>(p, "union of two layers",
          pipeline{given_scores{},
                   top_k{{.budget = tokens / 3, .granularity = granularity::union_, .layers = 2}}},
          true);
  both<T>(p, "per layer",
          pipeline{given_scores{},
                   top_k{{.budget = tokens / 3, .granularity = granularity::per_layer}}},
          true);
  both<T>(p, "given scores kivi", pipeline{given_scores{}, keep, kivi<2>{{.residual = 32}}}, true);
  both<T>(p, "knorm", pipeline{knorm{}, keep, int_per_token<4>{}}, false);
  both<T>(p, "custom scorer", pipeline{short_values{}, keep, kivi<4>{{.residual = 32}}}, false);
  both<T>(p, "snapkv", pipeline{snapkv{{.window = 16}}, keep}, false);
  both<T>(p, "codecs of one's own", own_codecs{}, true);
  both<T>(p, "codecs over two sequences", paired_sequences{}, true);
  both<T>(p, "snapkv, heads' maximum",
          pipeline{snapkv{{.window = 16, .pool = 1, .heads = head_reduction::maximum}}, keep},
          false);
}

/// Head sizes that fill no whole number of lanes or all of them, groups above one pass, blocks too
/// large for shared memory.
template <class T>
void odd_shapes() {
  std::printf("odd shapes\n");
  problem const narrow{
      .shape = {.sequences = 1, .kv_heads = 2, .group = 12, .tokens = 70, .head_dim = 80},
      .page_size = 16};
  problem const wide{
      .shape = {.sequences = 1, .kv_heads = 1, .group = 2, .tokens = 70, .head_dim = 256},
      .page_size = 16};
  problem const large{
      .shape = {.sequences = 1, .kv_heads = 2, .group = 2, .tokens = 150, .head_dim = 128},
      .page_size = 16};
  for (auto const& p : {narrow, wide}) {
    top_k const keep{{.budget = 40, .sinks = 4, .recent = 8}};
    both<T>(p, "dense f16", dense<f16>{}, true);
    both<T>(p, "int 4", int_per_token<4>{}, true);
    both<T>(p, "given scores", pipeline{given_scores{}, keep}, true);
    both<T>(
        p, "snapkv max, heads summed",
        pipeline{
            snapkv{
                {.window = 16, .pool = 3, .kind = pooling::maximum, .heads = head_reduction::sum}},
            keep},
        false);
  }
  both<T>(large, "kivi 2, groups of 128", kivi<2>{{.group = 128, .residual = 128}}, true);
}

/// Window scores themselves, for windows below and above what one pass of a kernel holds.
void scores_windows() {
  for (index_t const window : {1, 40, 100}) {
    data::cache const c({.sequences = 2, .kv_heads = 2, .group = 3, .tokens = 300, .head_dim = 40});
    auto const e = c.shape.extents();
    rows_shape const shape{e.sequences, 6, window, e.head_dim};
    std::vector<float> q(static_cast<std::size_t>(e.sequences * 6 * window * e.head_dim));
    for (std::size_t i = 0; i < q.size(); ++i) q[i] = c.q[i * 31 % c.q.size()];
    std::vector<std::int32_t> const lengths{300, 211};
    ops::window_options const options{
        .kind = pooling::maximum, .kernel = 3, .heads = head_reduction::mean};
    std::vector<float> scores(static_cast<std::size_t>(e.rows() * e.tokens)),
        scratch(static_cast<std::size_t>(e.rows() * ops::window_scratch_floats(e, window)));
    auto view = dense_cache(c.k.data(), c.v.data(), e);
    view.lengths = lengths.data();
    check(ops::window_scores(cpu{}, view, dense_rows<host_space, float const>(q.data(), shape),
                             options, {scores.data(), e.tokens}, scratch.data())
              .ok(),
          "on the CPU", "window scores");
    device<float> const k(c.k), v(c.v), device_q(q), device_scores(scores.size()),
        device_scratch(scratch.size());
    device<std::int32_t> const device_lengths(lengths);
    auto device_view = dense_cache<cuda_space, float const>(k.get(), v.get(), e);
    device_view.lengths = device_lengths.get();
    check(ops::window_scores(cuda{nullptr}, device_view,
                             dense_rows<cuda_space, float const>(device_q.get(), shape), options,
                             {device_scores.get(), e.tokens}, device_scratch.get())
              .ok(),
          "on CUDA", "window scores");
    check(cudaDeviceSynchronize() == cudaSuccess, "ran", "window scores");
    check(distance(device_scores.host(), scores) <= tolerance::accumulated, "both backends agree",
          "window scores");
  }
}

/// Compacting in place keeps what compacting on the CPU keeps.
void compacts() {
  data::cache const c({.sequences = 2, .kv_heads = 3, .tokens = 90, .head_dim = 40});
  auto const e = c.shape.extents();
  std::vector<std::int32_t> kept;
  std::vector<index_t> counts;
  index_t const capacity = 40;
  for (index_t r = 0; r < e.rows(); ++r) {
    counts.push_back(capacity - 5 * r);
    for (index_t n = 0; n < capacity; ++n) kept.push_back(static_cast<std::int32_t>(2 * n + r % 2));
  }
  auto k = c.k, v = c.v;
  auto const host = dense_cache(k.data(), v.data(), e);
  check(ops::compact(cpu{}, host, host, kept.data(), counts.data(), capacity).ok(), "on the CPU",
        "compact");
  device<float> const device_k(c.k), device_v(c.v);
  device<std::int32_t> const device_kept(kept);
  device<index_t> const device_counts(counts);
  auto const view = dense_cache<cuda_space>(device_k.get(), device_v.get(), e);
  check(ops::compact(cuda{nullptr}, view, view, device_kept.get(), device_counts.get(), capacity)
            .ok(),
        "on CUDA", "compact");
  check(cudaDeviceSynchronize() == cudaSuccess, "ran", "compact");
  check(device_k.host() == k && device_v.host() == v, "in place, both backends agree", "compact");
}

}  // namespace

int main() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
    std::printf("SKIPPED: no GPU; the kernels were compiled and have not run\n");
    return 77;
  }
  cudaDeviceProp device_properties;
  cudaGetDeviceProperties(&device_properties, 0);
  std::printf("device: %s, sm_%d%d\n", device_properties.name, device_properties.major,
              device_properties.minor);
  all_methods<float>(
      "f32, contiguous",
      {.shape = {.sequences = 2, .kv_heads = 2, .group = 4, .tokens = 200, .head_dim = 64}});
  some_methods<f16>(
      "f16, pages of 16, ragged",
      {.shape = {.sequences = 2, .kv_heads = 3, .group = 5, .tokens = 150, .head_dim = 128},
       .page_size = 16});
  some_methods<f16>(
      "f16, pages of 7, one head",
      {.shape = {.sequences = 1, .kv_heads = 1, .group = 1, .tokens = 70, .head_dim = 32},
       .page_size = 7});
  odd_shapes<f16>();
  scores_windows();
  compacts();
  std::printf(failures == 0 ? "all passed\n" : "%d failed\n", failures);
  return failures == 0 ? 0 : 1;
}
