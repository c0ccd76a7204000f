// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Device memory for tests, and caches that lie in host and device memory alike: cells in any order,
// with padding and pins, ragged, per sequence or per head.

#include <kvslim/adapt/query_heads.hpp>
#include <kvslim/core/text.hpp>

#include <cuda_runtime.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

namespace on_device {

using kvslim::index_t;

inline int failures = 0;

inline void check(bool good, char const* what, char const* name) {
  if (good) return;
  std::printf("FAILED: %s: %s\n", name, what);
  ++failures;
}

/// Device memory, filled from the host.
template <class T>
class device {
 public:
  device() = default;
  explicit device(std::size_t count) : count_(count) {
    if (count > 0)
      check(cudaMalloc(&data_, count * sizeof(T)) == cudaSuccess, "cudaMalloc", "device");
  }
  explicit device(std::vector<T> const& host) : device(host.size()) {
    if (count_ > 0) cudaMemcpy(data_, host.data(), count_ * sizeof(T), cudaMemcpyHostToDevice);
  }
  device(device const&) = delete;
  device& operator=(device const&) = delete;
  ~device() { cudaFree(data_); }
  [[nodiscard]] T* get() const { return data_; }
  [[nodiscard]] std::size_t size() const { return count_; }
  [[nodiscard]] std::vector<T> host() const {
    std::vector<T> out(count_);
    if (count_ > 0) cudaMemcpy(out.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost);
    return out;
  }

 private:
  T* data_ = nullptr;
  std::size_t count_ = 0;
};

/// The same bytes.
template <class T>
[[nodiscard]] bool same(T const* a, T const* b, index_t count) {
  return count <= 0 || std::memcmp(a, b, static_cast<std::size_t>(count) * sizeof(T)) == 0;
}
template <class T>
[[nodiscard]] bool same(std::vector<T> const& a, std::vector<T> const& b) {
  return a.size() == b.size() && same(a.data(), b.data(), static_cast<index_t>(a.size()));
}
/// Relative L2 distance; infinite if either holds NaN.
[[nodiscard]] inline double distance(std::vector<float> const& a, std::vector<float> const& b) {
  double error = 0.0, norm = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    double const x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
    error += (x - y) * (x - y);
    norm += y * y;
  }
  if (std::isnan(error)) return INFINITY;
  return norm == 0.0 ? error : std::sqrt(error / norm);
}

/// Which per-cell arrays a cache has, and whether heads differ in them.
struct traits {
  bool lengths = false, positions = false, valid = false, bias = false, per_head = false;
  bool ascending = false;  ///< positions ascend although they are given
  bool repeated = false;   ///< heads of a sequence are one KV head's, repeated; not with per_head
};

/// K, V and what is known of the cells, random.
struct cells {
  kvslim::extents e;
  traits has;
  std::vector<float> k, v, bias;
  std::vector<std::int32_t> lengths, positions;
  std::vector<std::uint8_t> valid;
  device<float> dk, dv, dbias;
  device<std::int32_t> dlengths, dpositions;
  device<std::uint8_t> dvalid;

  cells(kvslim::extents const& extents, traits t, unsigned seed)
      : cells(extents, t, std::mt19937(seed)) {}

  template <class Space>
  [[nodiscard]] auto view() const {
    constexpr bool host = std::is_same_v<Space, kvslim::host_space>;
    auto const at = [](auto const& a, auto const& b) { return host ? a.data() : b.get(); };
    auto c = kvslim::dense_cache<Space>(at(k, dk), at(v, dv), e);
    [[maybe_unused]] index_t const heads = has.per_head ? e.kv_heads : 1,
                                   sequence = heads * e.tokens, head = has.per_head ? e.tokens : 0;
    if (has.lengths) c.lengths = {at(lengths, dlengths), heads, index_t{has.per_head ? 1 : 0}};
    if (has.positions) c.positions = {at(positions, dpositions), sequence, head};
    if (has.valid) c.valid = {at(valid, dvalid), sequence, head};
    if (has.bias) c.bias = {at(bias, dbias), sequence, head};
    if (!has.repeated) return c;
    c.extent.kv_heads = e.sequences;
    c.extent.sequences = 1;
    for (auto* layout : {&c.k.layout, &c.v.layout}) layout->kv_head = layout->sequence;
    if (has.lengths) c.lengths.kv_head = 1;
    if (has.positions) c.positions.kv_head = e.tokens;
    if (has.valid) c.valid.kv_head = e.tokens;
    if (has.bias) c.bias.kv_head = e.tokens;
    return kvslim::adapt::repeat_heads(c, 0, e.kv_heads);
  }

 private:
  struct parts {
    std::vector<float> k, v, bias;
    std::vector<std::int32_t> lengths, positions;
    std::vector<std::uint8_t> valid;
  };
  cells(kvslim::extents const& x, traits t, std::mt19937 engine)
      : cells(x, t, make(x, t, engine)) {}
  cells(kvslim::extents const& x, traits t, parts p)
      : e(x),
        has(t),
        k(std::move(p.k)),
        v(std::move(p.v)),
        bias(std::move(p.bias)),
        lengths(std::move(p.lengths)),
        positions(std::move(p.positions)),
        valid(std::move(p.valid)),
        dk(k),
        dv(v),
        dbias(bias),
        dlengths(lengths),
        dpositions(positions),
        dvalid(valid) {}

  static parts make(kvslim::extents const& e, traits t, std::mt19937& engine) {
    parts p;
    std::normal_distribution<float> normal;
    p.k.resize(static_cast<std::size_t>(e.rows() * e.tokens * e.head_dim));
    p.v.resize(static_cast<std::size_t>(e.rows() * e.tokens * e.value_width()));
    for (float& x : p.k) x = normal(engine);
    for (float& x : p.v) x = normal(engine);
    index_t const arrays = e.sequences * (t.per_head ? e.kv_heads : 1);
    for (index_t a = 0; a < arrays; ++a) {
      // The first is full, the second may be empty.
      auto const shortest = a == 1 ? 0 : e.tokens / 2;
      auto const n =
          a == 0 ? e.tokens
                 : shortest + static_cast<index_t>(engine() %
                                                   static_cast<unsigned>(e.tokens - shortest + 1));
      p.lengths.push_back(static_cast<std::int32_t>(n));
      std::int32_t at = 0;
      for (index_t i = 0; i < e.tokens; ++i) {
        at += static_cast<std::int32_t>(engine() % 3);
        // Some are equal, a few need all 30 bits.
        p.positions.push_back(
            t.ascending ? at
            : engine() % 50 == 0
                ? static_cast<std::int32_t>(engine() % (1u << 30))
                : static_cast<std::int32_t>(engine() % static_cast<unsigned>(e.tokens + 1)));
        unsigned const state = static_cast<unsigned>(engine() % 16);
        p.valid.push_back(state < 3 ? 0 : state == 3 ? 2 : 1);
        p.bias.push_back(engine() % 9 == 0 ? -INFINITY : normal(engine));
      }
    }
    return p;
  }
};

}  // namespace on_device
