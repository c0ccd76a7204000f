// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Q-Filters keeps the keys that lie farthest along the direction that a model's queries have in
// common, found offline for every KV head. "Q-Filters: Leveraging QK Geometry for Efficient KV
// Cache Compression", arXiv:2503.02812. Authors' code: NathanGodey/qfilters cda5c38,
// src/hf_cache.py; filters are made by its make_filters.py; NVIDIA/kvpress 0.5.5, qfilter_press.py.
//
// Fidelity: filters point as the published ones do, against the queries: a low product stays.
// Fidelity: the authors' cache keeps its newest `window_length` tokens besides the best, which is
// top_k's `.recent`, and does so whenever `max_length` is reached, which is append() and
// recompress(). kvpress protects nothing.
// Fidelity: both round filters and products to the model's type; here they are floats.

#include <kvslim/ops/finite.hpp>
#include <kvslim/ops/score_tokens.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// -(filter . key), with the filter of the token's layer and head.
template <class Space>
struct against_filter {
  static constexpr scorer_traits<> traits{};

  rows<Space> filters;

  KVSLIM_HD float score(auto const& token) const {
    auto const key = token.key();
    float product = 0.0f;
    filters.visit(token.sequence() % filters.sequences, token.kv_head(), 0, [&](auto const* f) {
      using value = std::remove_cvref_t<decltype(*f)>;
      product = ops::dot_channels(
          key, channel_range<value>(f, filters.layout.channel, filters.head_dim), key.size());
    });
    return -product;
  }
};

}  // namespace detail

/// Scores a token by how far its key lies against its head's filter.
/// Requires: evidence query_filters, [layers, kv_heads, 1, head_dim], layers dividing the view's
/// sequences (invalid_shape). Cost: one pass over K. Source: arXiv:2503.02812.
struct qfilters {
  static constexpr scorer_traits<no_column, needs_query_filters> traits{.bulk = true};

  [[nodiscard]] constexpr index_t protected_recent() const noexcept { return 0; }
  [[nodiscard]] constexpr index_t scratch_floats(extents const&) const noexcept { return 0; }
  [[nodiscard]] constexpr status check(extents const&) const noexcept { return {}; }
  template <class Text, class Evidence>
  [[nodiscard]] status check(Text const& text, Evidence const& evidence) const noexcept {
    auto const& e = text.extents();
    return ops::check_table(evidence.template get<needs_query_filters>().filters, e, e.kv_heads, 1,
                            e.head_dim);
  }

  template <class Exec, class Text, class Evidence>
  [[nodiscard]] status score(Exec const& exec, Text const& text, Evidence const& evidence,
                             score_view out, float*) const {
    auto const& filters = evidence.template get<needs_query_filters>().filters;
    return ops::score_tokens(exec, detail::against_filter<typename Text::space>{filters}, text,
                             columns_by_rank<no_column>{}, out);
  }
};
static_assert(scorer<qfilters>);

KVSLIM_END_NAMESPACE
