// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Expected Attention keeps the tokens that queries to come will attend to: their distribution is
// that of the prompt's queries (or one found offline), rotated to the positions that follow.
// "Expected Attention: KV Cache Compression by Estimating Attention from Future Queries
// Distribution", arXiv:2510.00636. Authors' code: NVIDIA/kvpress 0.5.5,
// expected_attention_press.py, and expected_attention_with_stats.py.
//
// Fidelity: the mean rotation over the positions to come is a closed form in double, where kvpress
// adds up matrices in the model's type.
// Fidelity: positions are the tokens' own, also while decoding, where kvpress counts from the
// length of its buffer of hidden states.
// Fidelity: sinks score the largest float, not kvpress's maximum + 1 over all heads.
// Fidelity: kvpress's stored covariance divides by one query less than its live one; tables are
// used as they are.

#include <kvslim/ops/expected_attention.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Scores tokens by the attention that is expected of later queries, times their values' norm.
/// `Needs` says where the queries' mean and covariance come from: needs_raw_queries, the prompt's
/// queries, or needs_query_statistics, tables.
/// Requires: evidence of that kind (invalid_shape); options as below (invalid_option). Cost: see
/// ops::expected_attention, once for every query head; workspace 2 * head_dim^2 floats a row.
/// Source: arXiv:2510.00636.
template <class Needs = needs_raw_queries>
struct expected_attention {
  static_assert(std::same_as<Needs, needs_raw_queries> ||
                    std::same_as<Needs, needs_query_statistics>,
                "kvslim: expected_attention reads needs_raw_queries or needs_query_statistics");
  static constexpr scorer_traits<no_column, Needs> traits{.bulk = true};

  struct options {
    rope rotation = {};      ///< of the model's keys; its table, if any, lies where the cache does
    float scaling = 1.0f;    ///< attention factor inside stored keys (YaRN, LongRoPE), > 0
    index_t future = 512;    ///< positions that queries may come from, in [1, 2^24] (kvpress)
    index_t sinks = 4;       ///< first tokens: always kept, their queries not asked (kvpress)
    bool covariance = true;  ///< false: the mean alone, which is cheaper (kvpress)
    bool value_norm = true;  ///< multiply by ||v|| (kvpress)
    float epsilon = 0.0f;    ///< added before, >= 0 (kvpress; 0.02 where heads compete)
  };
  options opt = {};

  [[nodiscard]] constexpr index_t protected_recent() const noexcept { return 0; }
  [[nodiscard]] constexpr index_t scratch_floats(extents const& e) const noexcept {
    return ops::expected_floats(e);
  }
  [[nodiscard]] constexpr status check(extents const& e) const noexcept {
    index_t const future = opt.future;
    if (!opt.rotation.fits(e.head_dim) || !(opt.scaling > 0.0f) ||
        opt.scaling > ops::largest_float || future < 1 || future > (index_t{1} << 24) ||
        opt.sinks < 0 || !(opt.epsilon >= 0.0f) || opt.epsilon > ops::largest_float)
      return detail::fail(errc::invalid_option,
                          "kvslim: expected_attention needs even rope.dims up to head_dim, scaling "
                          "> 0, future in [1, 2^24], sinks and epsilon >= 0");
    return {};
  }
  template <class Text, class Evidence>
  [[nodiscard]] status check(Text const& text, Evidence const& evidence) const noexcept {
    auto const& e = text.extents();
    if constexpr (std::same_as<Needs, needs_raw_queries>) {
      return ops::check_queries(evidence.template get<Needs>().queries, e);
    } else {
      auto const& x = evidence.template get<Needs>();
      index_t const heads = x.mean.heads;
      if (heads < 1 || heads % e.kv_heads != 0)
        return detail::fail(errc::invalid_shape,
                            "kvslim: statistics need n * kv_heads query heads");
      if (auto const s = ops::check_table(x.mean, e, heads, 1, e.head_dim); !s) return s;
      return opt.covariance ? ops::check_table(x.covariance, e, heads, e.head_dim, e.head_dim)
                            : status{};
    }
  }

  template <class Exec, class Text, class Evidence>
  [[nodiscard]] status score(Exec const& exec, Text const& text, Evidence const& evidence,
                             score_view out, float* scratch) const {
    auto const& e = text.extents();
    auto const& x = evidence.template get<Needs>();
    ops::moments_memory const m{scratch, ops::expected_floats(e), e.head_dim};
    index_t const group = heads(x) / e.kv_heads;
    for (index_t g = 0; g < group; ++g) {
      if (auto const s = fill(exec, text, x, g, m); !s) return s;
      if (auto const s = ops::expected_attention(exec, text,
                                                 {opt.rotation, opt.scaling, opt.future, opt.sinks,
                                                  opt.covariance, opt.value_norm, opt.epsilon},
                                                 g, group, m, out);
          !s)
        return s;
    }
    return {};
  }

 private:
  template <class Space>
  static index_t heads(raw_queries<Space> const& x) noexcept {
    return x.queries.heads;
  }
  template <class Space>
  static index_t heads(query_statistics<Space> const& x) noexcept {
    return x.mean.heads;
  }
  template <class Exec, class Text, class Space>
  status fill(Exec const& exec, Text const& text, raw_queries<Space> const& x, index_t g,
              ops::moments_memory const& m) const {
    return ops::query_moments(exec, text, x.queries, opt.sinks, opt.covariance, g, m);
  }
  template <class Exec, class Text, class Space>
  status fill(Exec const& exec, Text const& text, query_statistics<Space> const& x, index_t g,
              ops::moments_memory const& m) const {
    auto const& covariance = opt.covariance ? x.covariance : rows<Space>{};
    return ops::load_moments(exec, text.extents(), x.mean, covariance, g, m);
  }
};
static_assert(scorer<expected_attention<>>);

/// With statistics found offline.
using expected_attention_stats = expected_attention<needs_query_statistics>;
static_assert(scorer<expected_attention_stats>);

KVSLIM_END_NAMESPACE
