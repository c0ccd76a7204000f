// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/rows.hpp>
#include <kvslim/core/text.hpp>
#include <kvslim/isa/score_kernels.hpp>

#include <cmath>

KVSLIM_BEGIN_NAMESPACE

namespace ops {

/// A key of the text, or one of the probes'.
template <class Key, class Space>
struct probed_key {
  Key key;
  rows<Space> const* own;  // null: of the text
  index_t sequence, kv_head, at;

  [[nodiscard]] KVSLIM_HD float operator[](index_t d) const {
    return own == nullptr ? key[d] : own->at(sequence, kv_head, at, d);
  }
  KVSLIM_HD void load(float* out) const {
    if (own == nullptr)
      key.load(out);
    else
      own->load(sequence, kv_head, at, out);
  }
  friend void load_by_kernel(probed_key const& from, float* out) noexcept {
    if (from.own == nullptr)
      detail::load_by_kernel(from.key, out);
    else
      from.load(out);
  }
};

/// Part of a text with queries behind it that are not its tokens: its sinks, one stretch, then as
/// many tokens as there are queries. So they are this text's newest tokens, and what looks at a
/// window of a text looks at it with them. Without keys of their own the queries see no token
/// behind the stretch.
template <class Text>
struct probed_text {
  using space = typename Text::space;

  Text text;
  rows<space> keys;  ///< of the queries, [sequence, kv_head, query, head_dim]; null: none
  index_t queries = 0;
  index_t sinks = 0, first = 0, count = 0;  ///< ranks; sinks do not reach into the stretch

  [[nodiscard]] KVSLIM_HD constexpr kvslim::extents const& extents() const noexcept {
    return text.extents();
  }
  /// Sinks that a row has.
  [[nodiscard]] KVSLIM_HD constexpr index_t head(index_t s, index_t h) const noexcept {
    return detail::min(text.tokens(s, h), detail::min(sinks, first));
  }
  /// Sinks and the stretch.
  [[nodiscard]] KVSLIM_HD constexpr index_t context(index_t s, index_t h) const noexcept {
    return head(s, h) + detail::max(0, detail::min(text.tokens(s, h) - first, count));
  }
  /// Nothing where there is nothing to look at.
  [[nodiscard]] KVSLIM_HD constexpr index_t tokens(index_t s, index_t h) const noexcept {
    index_t const n = context(s, h);
    return n == 0 ? 0 : n + queries;
  }
  /// Rank in the text of token i of the context.
  [[nodiscard]] KVSLIM_HD constexpr index_t rank(index_t s, index_t h, index_t i) const noexcept {
    index_t const n = head(s, h);
    return i < n ? i : first + i - n;
  }
  [[nodiscard]] KVSLIM_HD auto key(index_t s, index_t h, index_t i) const noexcept {
    index_t const n = context(s, h);
    bool const own = i >= n && keys.data != nullptr;
    auto const of_text = text.key(s, h, rank(s, h, i < n ? i : 0));
    return probed_key<std::remove_cvref_t<decltype(of_text)>, space>{of_text, own ? &keys : nullptr,
                                                                     s, h, i - n};
  }
  [[nodiscard]] KVSLIM_HD float logit_bias(index_t s, index_t h, index_t i) const noexcept {
    index_t const n = context(s, h);
    if (i < n) return text.logit_bias(s, h, rank(s, h, i));
    return keys.data != nullptr ? 0.0f : -INFINITY;
  }
};

}  // namespace ops

KVSLIM_END_NAMESPACE
