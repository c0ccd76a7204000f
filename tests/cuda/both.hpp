// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// A stored cache in host and in device memory, and attention over it by both backends.

#include "on_device.hpp"
#include "support/data.hpp"
#include "support/tolerance.hpp"

#include <kvslim/kvslim.cuh>

namespace on_device {

inline kvslim::cuda const gpu{};

/// Device scratch of exactly so many bytes.
struct device_scratch : device<std::byte> {
  explicit device_scratch(std::size_t bytes) : device<std::byte>(bytes) {}
  operator kvslim::workspace() const { return {get(), size()}; }
};

inline void synchronized(char const* what, char const* name) {
  check(cudaDeviceSynchronize() == cudaSuccess, what, name);
}
inline void passed(kvslim::status const& s, char const* name) { check(s.ok(), s.message, name); }

/// Storage for one plan in both memories.
template <class Plan>
struct stored {
  using key = typename Plan::key_codec_type;
  using value = typename Plan::value_codec_type;
  using host_cache = kvslim::packed_cache<key, value>;
  using device_cache = kvslim::packed_cache<key, value, kvslim::cuda_space>;

  Plan plan;
  data::buffer storage;
  device<std::byte> device_storage;
  host_cache on_host;
  device_cache on_gpu;
  kvslim::codec_tables tables = {};  // in host memory

  explicit stored(Plan const& p)
      : plan(p),
        storage(p.packed_bytes()),
        device_storage(p.packed_bytes()),
        on_host(p, storage),
        on_gpu(p, device_storage.get(), p.packed_bytes(), kvslim::cuda_space{}) {}

  template <class Cells, class EvidenceA, class EvidenceB>
  void compress(Cells const& c, EvidenceA const& host, EvidenceB const& device, char const* name) {
    compress(c, host, device, name, plan);
  }
  /// The device's plan may name tables in its own memory.
  template <class Cells, class EvidenceA, class EvidenceB, class PlanOnGpu>
  void compress(Cells const& c, EvidenceA const& host, EvidenceB const& device, char const* name,
                PlanOnGpu const& plan_on_gpu) {
    data::buffer const scratch(plan.workspace_bytes());
    device_scratch const memory(plan_on_gpu.workspace_bytes());
    check(plan_on_gpu.packed_bytes() == plan.packed_bytes(), "the same sizes", name);
    passed(kvslim::compress(kvslim::cpu{}, plan, c.template view<kvslim::host_space>(), host,
                            on_host, scratch),
           name);
    passed(kvslim::compress(gpu, plan_on_gpu, c.template view<kvslim::cuda_space>(), device, on_gpu,
                            memory),
           name);
    synchronized("compress ran", name);
  }
  /// Device memory becomes what host memory holds.
  void upload() const {
    cudaMemcpy(device_storage.get(), storage.data(), storage.size(), cudaMemcpyHostToDevice);
  }
  /// Row r's entry in device memory.
  [[nodiscard]] kvslim::packed_row row(index_t r) const {
    auto const bytes = device_storage.host();
    kvslim::packed_row x{};
    std::size_t const at = sizeof(kvslim::packed_header) + static_cast<std::size_t>(r) * sizeof x;
    if (at + sizeof x <= bytes.size()) std::memcpy(&x, bytes.data() + at, sizeof x);
    return x;
  }
  /// The same rows, slots, positions, biases and decoded channels in both memories, or without
  /// `values` nearly the same channels; with `bytes` the same bytes.
  void same(char const* name, bool bytes = false, bool values = true) const {
    auto memory = device_storage.host();
    host_cache copy(plan.layout(), memory.data(), memory.size());
    copy.bind(tables);
    if (!copy.ready()) return check(false, "the device's header is the plan's", name);
    auto const& e = plan.extents();
    bool rows = copy.bytes() == on_host.bytes(), slots = true, rest = true;
    double apart = 0.0, size = 1e-30;
    auto const one = [&](float x, float y) {
      rest = rest && x == y;
      apart += std::pow(static_cast<double>(x) - static_cast<double>(y), 2);
      size += std::pow(static_cast<double>(y), 2);
    };
    for (index_t r = 0; r < e.rows() && rows; ++r) {
      auto const a = on_host.raw_row(r), b = copy.raw_row(r);
      if (std::memcmp(&a, &b, sizeof a) != 0) {
        std::printf("%s, row %d: slots %d %d, holes %d %d, coded %d %d and %d %d, failed %d\n",
                    name, static_cast<int>(r), a.slots, b.slots, a.holes, b.holes, a.key_coded,
                    b.key_coded, a.value_coded, b.value_coded, b.failed);
        rows = false;
        break;
      }
      for (index_t i = 0; i < a.slots; ++i) {
        slots = slots && copy.positions(r)[i] == on_host.positions(r)[i] &&
                copy.pinned(r / e.kv_heads, r % e.kv_heads, i) ==
                    on_host.pinned(r / e.kv_heads, r % e.kv_heads, i);
        if (copy.positions(r)[i] == kvslim::empty_slot) continue;
        rest = rest && copy.logit_bias(r, i) == on_host.logit_bias(r, i);
        for (index_t d = 0; d < e.head_dim; ++d) one(copy.key(r, i, d), on_host.key(r, i, d));
        for (index_t d = 0; d < e.value_width(); ++d)
          one(copy.value(r, i, d), on_host.value(r, i, d));
      }
    }
    check(rows, "the same rows", name);
    check(!rows || slots, "the same tokens", name);
    check(!rows || !values || rest, "the same K, V and biases", name);
    check(!rows || std::sqrt(apart / size) <= tolerance::f16_storage, "nearly the same K and V",
          name);
    if (bytes && rows)
      check(on_device::same(memory.data(), storage.data(), static_cast<index_t>(on_host.bytes())),
            "the same bytes", name);
  }
};
template <class Plan>
stored(Plan const&) -> stored<Plan>;

/// Queries for cells: the same in both memories, rounded so that every 16-bit type holds them.
template <class T>
struct asked_rows {
  kvslim::rows_shape shape;
  std::vector<T> host;
  device<T> memory;

  asked_rows(kvslim::rows_shape const& s, unsigned seed)
      : shape(s), host(make(s, seed)), memory(host) {}
  [[nodiscard]] auto on_host() const {
    return kvslim::dense_rows<kvslim::host_space, T const>(host.data(), shape);
  }
  [[nodiscard]] auto on_gpu() const {
    return kvslim::dense_rows<kvslim::cuda_space, T const>(memory.get(), shape);
  }

 private:
  static std::vector<T> make(kvslim::rows_shape const& s, unsigned seed) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal;
    std::vector<T> x(static_cast<std::size_t>(s.sequences * s.heads * s.tokens * s.head_dim));
    for (T& y : x)
      y = kvslim::from_float<T>(kvslim::to_float(kvslim::from_float<kvslim::bf16>(normal(engine))));
    return x;
  }
};

/// What attention is asked for.
struct ask {
  index_t group = 1, tokens = 1, splits = 1, window = 0;
  bool positions = false, spans = false, sinks = false, logits = false, active = false,
       base2 = false, some_sequences = false, fast = false;
  unsigned seed = 3;
};

/// One request in both memories. `stride`: of the logits.
template <class T = float>
struct request {
  using host_request = kvslim::attend_request<kvslim::host_space>;
  using device_request = kvslim::attend_request<kvslim::cuda_space>;

  asked_rows<T> q;
  std::vector<T> out;
  std::vector<float> lse, logits, sinks;
  std::vector<std::int32_t> positions, spans, counts;
  std::vector<std::uint8_t> active;
  device<T> dout;
  device<float> dlse, dlogits, dsinks;
  device<std::int32_t> dpositions, dspans, dcounts;
  device<std::uint8_t> dactive;
  host_request on_host;
  device_request on_gpu;

  template <class Stored>
  request(Stored const& s, ask const& a)
      : request(s, a, s.plan.extents(), a.some_sequences ? 1 : 0) {}

 private:
  template <class Stored>
  request(Stored const& s, ask const& a, kvslim::extents const& e, index_t first)
      : q({e.sequences - first, e.kv_heads * a.group, a.tokens, e.head_dim}, a.seed),
        out(static_cast<std::size_t>((e.sequences - first) * e.kv_heads * a.group * a.tokens *
                                     e.value_width()),
            kvslim::from_float<T>(7.0f)),
        lse(out.size() / static_cast<std::size_t>(e.value_width()), 7.0f),
        logits(a.logits ? lse.size() * static_cast<std::size_t>(longest(s)) : 0, 7.0f),
        sinks(make_sinks(a, e)),
        positions(make_positions(s, a, first)),
        spans(make_spans(s, a)),
        counts(make_counts(s, a)),
        active(make_active(a, e.sequences - first)),
        dout(out),
        dlse(lse),
        dlogits(logits),
        dsinks(sinks),
        dpositions(positions),
        dspans(spans),
        dcounts(counts),
        dactive(active) {
    kvslim::rows_shape const shape{q.shape.sequences, q.shape.heads, a.tokens, e.value_width()};
    set(on_host, a, first, longest(s),
        [](auto& host, auto&) { return host.empty() ? nullptr : host.data(); });
    on_host.q = q.on_host();
    on_host.out = kvslim::dense_rows<kvslim::host_space>(out.data(), shape);
    set(on_gpu, a, first, longest(s),
        [](auto& host, auto& memory) { return host.empty() ? nullptr : memory.get(); });
    on_gpu.q = q.on_gpu();
    on_gpu.out = kvslim::dense_rows<kvslim::cuda_space>(dout.get(), shape);
  }

  template <class Request, class At>
  void set(Request& to, ask const& a, index_t first, index_t stride, At const& at) {
    to.lse = at(lse, dlse);
    to.first_sequence = first;
    to.window = a.window;
    to.splits = a.splits;
    to.base2 = a.base2;
    to.logits = at(logits, dlogits);
    to.logits_stride = a.logits ? stride : 0;
    to.sink_logits = at(sinks, dsinks);
    to.positions = at(positions, dpositions);
    to.active = at(active, dactive);
    to.visible = {at(spans, dspans), at(counts, dcounts), index_t{a.spans ? 3 : 0}};
  }
  template <class Stored>
  static index_t longest(Stored const& s) {
    return kvslim::detail::longest_row(s.on_host);
  }
  static std::vector<float> make_sinks(ask const& a, kvslim::extents const& e) {
    std::vector<float> x;
    for (index_t h = 0; a.sinks && h < e.kv_heads * a.group; ++h)
      x.push_back(static_cast<float>(h % 5) - 1.0f);
    return x;
  }
  /// Queries at positions somewhere in the text.
  template <class Stored>
  static std::vector<std::int32_t> make_positions(Stored const& s, ask const& a, index_t first) {
    std::vector<std::int32_t> x;
    auto const& e = s.plan.extents();
    for (index_t i = first; a.positions && i < e.sequences; ++i)
      for (index_t t = 0; t < a.tokens; ++t)
        x.push_back(s.on_host.next_position(i) / 2 + static_cast<std::int32_t>(3 * t));
    return x;
  }
  /// Three stretches of every row; the first may be empty.
  template <class Stored>
  static std::vector<std::int32_t> make_spans(Stored const& s, ask const& a) {
    std::vector<std::int32_t> x;
    for (index_t r = 0; a.spans && r < s.plan.extents().rows(); ++r) {
      std::int32_t const n = s.on_host.raw_row(r).slots;
      for (std::int32_t const part : {0, n / 9, n / 7, n / 3, n / 2, n}) x.push_back(part);
    }
    return x;
  }
  template <class Stored>
  static std::vector<std::int32_t> make_counts(Stored const& s, ask const& a) {
    std::vector<std::int32_t> x;
    for (index_t r = 0; a.spans && r < s.plan.extents().rows(); ++r)
      x.push_back(static_cast<std::int32_t>(r % 4));
    return x;
  }
  static std::vector<std::uint8_t> make_active(ask const& a, index_t sequences) {
    std::vector<std::uint8_t> x;
    for (index_t i = 0; a.active && i < sequences; ++i)
      x.push_back(static_cast<std::uint8_t>(i % 2));
    return x;
  }
};

template <class T>
[[nodiscard]] std::vector<float> floats(std::vector<T> const& x) {
  std::vector<float> y;
  for (T const& z : x) y.push_back(kvslim::to_float(z));
  return y;
}

/// Largest difference of logarithms, relative where they are above 1; -infinities must agree.
[[nodiscard]] inline double log_distance(std::vector<float> const& a, std::vector<float> const& b,
                                         double least = 1.0) {
  double worst = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i] == b[i]) continue;
    double const x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
    double const error = std::abs(x - y) / std::max(least, std::abs(y));
    worst = error <= worst ? worst : error;
    if (std::isnan(error) || std::isinf(error)) return INFINITY;
  }
  return worst;
}

/// Runs a request on both backends over the same stored bytes and compares what they wrote; a fast
/// one of the device with what the host computes tightly.
template <class T = float, class Stored>
double attend_both(Stored const& s, ask const& a, char const* name) {
  request<T> x(s, a);
  auto const& layout = s.plan.layout();
  data::buffer const scratch(kvslim::attend_bytes(layout, x.q.shape.heads, a.tokens, a.splits));
  device_scratch const memory(
      kvslim::attend_bytes(gpu, layout, x.q.shape.heads, a.tokens, a.splits));
  s.upload();
  if (a.fast) x.on_gpu.precision = kvslim::attend_precision::fast;
  passed(kvslim::attend(kvslim::cpu{}, s.on_host, x.on_host, scratch), name);
  passed(kvslim::attend(gpu, s.on_gpu, x.on_gpu, memory), name);
  synchronized("attend ran", name);
  double const error = distance(floats(x.dout.host()), floats(x.out));
  double const bound = !std::is_same_v<T, float> ? 4 * tolerance::f16_storage
                       : a.fast                  ? tolerance::attend_fast
                                                 : tolerance::attend;
  check(error <= bound, "attention within the bound", name);
  check(log_distance(x.dlse.host(), x.lse) <= tolerance::attend, "log-sum-exp within the bound",
        name);
  check(log_distance(x.dlogits.host(), x.logits, 10.0) <= tolerance::attend,
        "logits within the bound", name);
  if (error > bound) std::printf("  %s: %.3g\n", name, error);
  return error;
}

}  // namespace on_device
