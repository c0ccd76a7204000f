// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// Evicted tokens that go to the kept ones after them, by how much they scored beside those.

#include <kvslim/core/fingerprint.hpp>
#include <kvslim/ops/assign.hpp>

KVSLIM_BEGIN_NAMESPACE

/// How an evicted token is handed on.
struct following_rule {
  index_t span = 1;        ///< kept tokens that share it
  bool draws = true;       ///< all or nothing, with the probability; otherwise that part of it
  std::uint64_t seed = 0;  ///< of the draws
};

namespace ops {

struct following_kept_op {};

/// Targets of every (row, rank): an evicted token goes to the `span` kept tokens after it, as many
/// as there are, with a probability of its score over their mean score, at most one. Strength: 1 /
/// their number, or 0. Draws depend on the seed, the row and the position alone.
template <class Exec, class Text>
status following_kept(Exec const& exec, Text const& text, score_view scores, fate const* fates,
                      following_rule const& rule, folding const& out) {
  return implementation<following_kept_op, Exec>::run(exec, text, scores, fates, rule, out);
}

/// One token of it.
template <class Text>
KVSLIM_HD inline void follow(Text const& text, score_view scores, fate const* fates,
                             following_rule const& rule, folding const& out, index_t r,
                             index_t t) noexcept {
  auto const& e = text.extents();
  index_t const s = r / e.kv_heads, h = r % e.kv_heads, n = text.tokens(s, h), row = r * e.tokens;
  bool const evicted = fates[row + t] == fate::evicted;
  out.target[row + t] = evicted ? -1 : static_cast<std::int32_t>(t);
  out.strength[row + t] = 0.0f;
  if (!evicted || !(text.logit_bias(s, h, t) > -INFINITY)) return;
  index_t first = -1, count = 0;
  double sum = 0.0;
  for (index_t c = t + 1; c < n && count < rule.span; ++c) {
    if (fates[row + c] == fate::evicted) continue;
    if (first < 0) first = c;
    sum += static_cast<double>(scores.row(r)[c]);
    ++count;
  }
  if (count == 0) return;
  double const mine = static_cast<double>(scores.row(r)[t]),
               mean = sum / static_cast<double>(count);
  double part = mean > 0.0 ? mine / mean : mine > 0.0 ? 1.0 : 0.0;
  part = part > 1.0 ? 1.0 : part > 0.0 ? part : 0.0;
  if (rule.draws) {
    std::uint64_t hash = detail::mix(rule.seed, static_cast<std::uint64_t>(s));
    hash = detail::mix(hash, static_cast<std::uint64_t>(h));
    hash = detail::mix(hash, static_cast<std::uint64_t>(text.position(s, h, t)));
    part = static_cast<double>(hash >> 40) * 0x1p-24 < part ? 1.0 : 0.0;
  }
  if (part == 0.0) return;
  out.target[row + t] = static_cast<std::int32_t>(first);
  out.strength[row + t] = static_cast<float>(part / static_cast<double>(count));
}

}  // namespace ops

template <host_executor Exec>
struct implementation<ops::following_kept_op, Exec> {
  template <class Text>
  static status run(Exec const& exec, Text const& text, score_view scores, fate const* fates,
                    following_rule const& rule, folding const& out) {
    exec.for_each(text.extents().rows(), [=](index_t r) {
      auto const& e = text.extents();
      index_t const n = text.tokens(r / e.kv_heads, r % e.kv_heads);
      for (index_t t = 0; t < n; ++t) ops::follow(text, scores, fates, rule, out, r, t);
    });
    return {};
  }
};

KVSLIM_END_NAMESPACE
