// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// A seeded f16 cache with outlier channels, the buffers of one compression, and its quality against
// the uncompressed cache.

#include <kvslim/kvslim.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>
#include <random>
#include <vector>

namespace bench {

using kvslim::index_t;

class buffer {
 public:
  explicit buffer(std::size_t bytes)
      : size_(bytes), data_(new (std::align_val_t{256}) std::byte[size_]()) {}
  [[nodiscard]] std::byte* data() const { return data_.get(); }
  [[nodiscard]] std::size_t size() const { return size_; }

 private:
  struct release {
    void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t{256}); }
  };
  std::size_t size_;
  std::unique_ptr<std::byte[], release> data_;
};

/// What lies in it: `usual` is normal with six added to every 29th channel of K; `flat` says the
/// same of every token (keys of one length, queries of zero, equal given scores); `ties` repeats
/// eight tokens; `outliers` makes every 29th channel of K thirty times as large.
enum class content { usual, flat, ties, outliers };
inline constexpr struct {
  content what;
  char const* name;
} contents[] = {{content::usual, ""},
                {content::flat, "/flat_scores"},
                {content::ties, "/heavy_ties"},
                {content::outliers, "/outlier_channels"}};

struct cache {
  kvslim::extents extent;
  index_t q_heads;
  std::vector<kvslim::f16> k, v;
  std::vector<float> q, scores;

  cache(kvslim::extents e, index_t query_heads, content what = content::usual)
      : extent(e), q_heads(query_heads) {
    std::mt19937 engine(1);
    std::normal_distribution<float> normal;
    auto const n = static_cast<std::size_t>(e.rows() * e.tokens * e.head_dim);
    k.reserve(n);
    v.reserve(n);
    // A short random sequence repeated with an odd period: cheap to make, too long for any
    // predictor.
    std::vector<float> noise(65537);
    for (float& x : noise) x = normal(engine);
    auto const repeat = static_cast<std::size_t>(8 * e.head_dim);
    for (std::size_t j = 0; j < n; ++j) {
      std::size_t const i = what == content::ties ? j % repeat : j;
      bool const outlier = static_cast<index_t>(i) % e.head_dim % 29 == 3;
      float x = noise[i % 65537];
      if (what == content::flat)
        x = std::copysign(1.0f, x);
      else if (outlier)
        x = what == content::outliers ? 30.0f * x : x + 6.0f;
      k.push_back(kvslim::from_float<kvslim::f16>(x));
      v.push_back(kvslim::from_float<kvslim::f16>(noise[(i * 7) % 65537]));
    }
    for (index_t i = 0; i < e.sequences * q_heads * 64 * e.head_dim; ++i)
      q.push_back(what == content::flat ? 0.0f : normal(engine));
    for (index_t i = 0; i < e.rows() * e.tokens; ++i)
      scores.push_back(what == content::flat   ? 1.0f
                       : what == content::ties ? static_cast<float>(i % 8)
                                               : std::exp(normal(engine)));
  }
  [[nodiscard]] auto view() const { return kvslim::dense_cache(k.data(), v.data(), extent); }
  [[nodiscard]] auto queries(index_t n) const {
    return kvslim::dense_rows(q.data(), {extent.sequences, q_heads, n, extent.head_dim});
  }
  /// Queries of the whole prompt, overlapping in memory: as much work, and less of it.
  [[nodiscard]] auto prompt() const {
    return kvslim::rows_view<float const>{q.data(),      extent.sequences, q_heads,
                                          extent.tokens, extent.head_dim,  {0, 128, 8, 1}};
  }
  /// An output projection as wide as all query heads, overlapping in memory too.
  [[nodiscard]] auto projection() const {
    return kvslim::rows_view<float const>{
        q.data(), 1, q_heads, extent.value_width(), q_heads * extent.value_width(), {0, 128, 8, 1}};
  }
  [[nodiscard]] auto evidence() const {
    return kvslim::evidence{kvslim::window_queries{queries(32)},
                            kvslim::token_scores<>{scores.data()},
                            kvslim::query_filters<>{kvslim::dense_rows(
                                q.data(), {1, extent.kv_heads, 1, extent.head_dim})},
                            kvslim::raw_queries{prompt()},
                            kvslim::probes{prompt()},
                            kvslim::output_projection{projection()},
                            kvslim::hidden_states{part({extent.sequences, 1, extent.tokens, 1024})},
                            gate()};
  }
  /// Anything of that shape, overlapping in memory.
  [[nodiscard]] kvslim::rows_view<float const> part(kvslim::rows_shape const& s) const {
    return {q.data(), s.sequences, s.heads, s.tokens, s.head_dim, {0, 128, 8, 1}};
  }
  /// Fast KVzip's gate of 16 channels and 16 sinks.
  [[nodiscard]] kvslim::gate_weights<> gate() const {
    index_t const heads = extent.kv_heads;
    return {.query = part({1, q_heads, 16, 1024}),
            .query_bias = part({1, q_heads, 1, 16}),
            .query_gain = part({1, 1, 1, 16}),
            .key = part({1, heads, 16, 1024}),
            .key_gain = part({1, 1, 1, 16}),
            .sinks = part({1, heads, 16, 16}),
            .offset = part({1, heads, 1, q_heads / heads})};
  }
};

/// Rows for codecs that read a table: of 8 KV heads of 128, rank 512 at most.
inline float const* basis() {
  static std::vector<float> const rows = [] {
    std::vector<float> x(8 * 512 * 128);
    for (std::size_t i = 0; i < x.size(); ++i)
      x[i] = (static_cast<float>(i * 7919 % 211) - 105.0f) * 5e-4f;  // of length 1 about, all heads
    return x;
  }();
  return rows.data();
}

/// One compression with its memory.
template <class Policy>
struct run {
  using plan_type = decltype(kvslim::make_plan(std::declval<Policy const&>(), kvslim::extents{}));
  plan_type plan;
  buffer storage, scratch;
  std::vector<float> table;
  kvslim::packed_cache<typename plan_type::key_codec_type, typename plan_type::value_codec_type>
      packed;

  run(Policy const& policy, cache const& c, kvslim::plan_options const& options = {})
      : plan(kvslim::make_plan(policy, c.extent, options)),
        storage(plan.packed_bytes()),
        scratch(plan.workspace_bytes()),
        packed(plan, storage) {
    using key = typename plan_type::key_codec_type;
    if constexpr (key::traits.tabled_fit) {  // it is told what the queries say
      table.resize(static_cast<std::size_t>(c.extent.rows() * c.extent.head_dim));
      if (said(c)) packed.bind({.key = table.data()});
    } else if (!packed.has_tables()) {
      packed.bind({basis(), basis()});
    }
  }
  [[nodiscard]] bool compress(cache const& c) const {
    return kvslim::compress(kvslim::cpu{}, plan, c.view(), c.evidence(), packed, scratch).ok();
  }

 private:
  [[nodiscard]] bool said(cache const& c) {
    if constexpr (requires { plan_type::key_codec_type::from; })  // divides keys by factors
      return kvslim::ops::key_balance(kvslim::cpu{}, c.queries(32), c.view(), table.data()).ok();
    else  // chooses channels
      return kvslim::ops::query_energy(kvslim::cpu{}, c.queries(32), c.extent.kv_heads,
                                       table.data())
          .ok();
  }
};

/// Copies of a stored cache, `bytes` of them together and two at least: a call that takes the next
/// one every time reads from memory.
template <class Policy>
class cold_copies {
 public:
  cold_copies(run<Policy> const& stored, Policy const& policy, cache const& c, std::size_t bytes) {
    std::size_t const each = stored.packed.bytes();
    for (std::size_t held = 0; held < bytes || copies_.size() < 2; held += each) {
      copies_.push_back(std::make_unique<run<Policy>>(policy, c));
      std::memcpy(copies_.back()->storage.data(), stored.storage.data(), each);
    }
  }
  [[nodiscard]] run<Policy> const& next() { return *copies_[at_++ % copies_.size()]; }
  /// A share of them for one sample, so that what is compared lies close in time.
  [[nodiscard]] std::size_t share() const { return std::max<std::size_t>(1, copies_.size() / 16); }

 private:
  std::vector<std::unique_ptr<run<Policy>>> copies_;
  std::size_t at_ = 0;
};

/// One query per sequence over a stored cache. `scratch` of attend_bytes() serves 8 heads in one
/// pass.
template <class Packed, class Exec = kvslim::cpu>
[[nodiscard]] bool attend(Packed const& packed, cache const& c, std::vector<float>& out,
                          kvslim::workspace scratch,
                          kvslim::attend_precision precision = kvslim::attend_precision::tight,
                          Exec const& exec = {}) {
  std::vector<float> lse(static_cast<std::size_t>(c.extent.sequences * c.q_heads));
  kvslim::rows_shape const shape{c.extent.sequences, c.q_heads, 1, c.extent.value_width()};
  return kvslim::attend(exec, packed,
                        {.q = c.queries(1),
                         .out = kvslim::dense_rows(out.data(), shape),
                         .lse = lse.data(),
                         .precision = precision},
                        scratch)
      .ok();
}

/// Relative L2 error of attention output against the uncompressed cache, one query per sequence.
template <class Run>
double attention_error(Run const& r, cache const& c) {
  run const exact(kvslim::dense<float>{}, c);
  auto const n = static_cast<std::size_t>(c.extent.sequences * c.q_heads * c.extent.head_dim);
  std::vector<float> a(n), b(n);
  if (!exact.compress(c) || !attend(exact.packed, c, a, {}) || !attend(r.packed, c, b, {}))
    return -1;
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < n; ++i) error += std::pow(a[i] - b[i], 2), norm += std::pow(a[i], 2);
  return std::sqrt(error / norm);
}

}  // namespace bench
