// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// Every second token of a chunk looks for the most alike of the others; the best pairs are made.

#include <kvslim/ops/assign.hpp>
#include <kvslim/ops/select.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Which tokens look for partners, and how many find one.
struct chunk_rule {
  index_t chunk = 64;  ///< tokens among which partners are looked for
  float part = 1.0f;   ///< of those that look, which find one: at most this much
  index_t sinks = 0;   ///< first tokens, left alone
  index_t recent = 0;  ///< newest tokens, left alone
};

namespace ops {

struct pair_in_chunks_op {};

/// Targets of every (row, rank): tokens at even places of a chunk join tokens at odd ones. Evicted,
/// protected and pinned tokens and those that a bias of -inf hides take no part. Strength: the
/// cosine. Of equal cosines the earlier token joins, and is joined.
template <class Exec, class Text>
status pair_in_chunks(Exec const& exec, Text const& text, fate const* fates, chunk_rule const& rule,
                      folding const& out) {
  return implementation<pair_in_chunks_op, Exec>::run(exec, text, fates, rule, out);
}

/// Chunks of a row, counted from its first token.
[[nodiscard]] KVSLIM_HD constexpr index_t chunks_of(extents const& e,
                                                    chunk_rule const& rule) noexcept {
  return detail::div_up(e.tokens, rule.chunk);
}

/// One chunk. Its part of out.sources says who has found a partner.
template <class Text>
KVSLIM_HD inline void pair_chunk(Text const& text, fate const* fates, chunk_rule const& rule,
                                 folding const& out, index_t r, index_t chunk) noexcept {
  auto const& e = text.extents();
  index_t const s = r / e.kv_heads, h = r % e.kv_heads, n = text.tokens(s, h), row = r * e.tokens;
  std::int32_t* const target = out.target + row;
  float* const strength = out.strength + row;
  std::int32_t* const found = out.sources + row;
  // Who finds no partner stays.
  for (index_t t = chunk * rule.chunk; t < detail::min(n, (chunk + 1) * rule.chunk); ++t) {
    target[t] = fates[row + t] == fate::evicted ? -1 : static_cast<std::int32_t>(t);
    strength[t] = 0.0f;
    found[t] = 0;
  }
  index_t const begin = detail::max(chunk * rule.chunk, rule.sinks);
  index_t const end = detail::min(n - rule.recent, (chunk + 1) * rule.chunk);
  auto const free = [&](index_t t) {
    return fates[row + t] == fate::kept && text.logit_bias(s, h, t) > -INFINITY;
  };
  index_t looking = 0;
  for (index_t a = begin; a < end; a += 2) {
    if (!free(a)) continue;
    ++looking;
    auto const mine = text.key(s, h, a);
    float const norm = std::sqrt(dot_channels(mine, mine, e.head_dim));
    for (index_t b = begin + 1; b < end; b += 2) {
      if (!free(b)) continue;
      auto const key = text.key(s, h, b);
      float const u = cosine_of(dot_channels(mine, key, e.head_dim), norm,
                                std::sqrt(dot_channels(key, key, e.head_dim)));
      if (found[a] != 0 && !(u > strength[a])) continue;
      strength[a] = u;
      target[a] = static_cast<std::int32_t>(b);
      found[a] = 1;
    }
  }
  // Let go of the worst pairs, the latest of equal ones first, until few enough are left.
  index_t const most = static_cast<index_t>(rule.part * static_cast<float>(looking));
  index_t pairs = 0;
  for (index_t a = begin; a < end; a += 2) pairs += free(a) && found[a] != 0 ? 1 : 0;
  for (; pairs > most; --pairs) {
    index_t worst = -1;
    for (index_t a = begin; a < end; a += 2)
      if (free(a) && found[a] != 0 &&
          (worst < 0 || order_key(strength[a], a) < order_key(strength[worst], worst)))
        worst = a;
    target[worst] = static_cast<std::int32_t>(worst);
    found[worst] = 0;
  }
}

}  // namespace ops

template <host_executor Exec>
struct implementation<ops::pair_in_chunks_op, Exec> {
  template <class Text>
  static status run(Exec const& exec, Text const& text, fate const* fates, chunk_rule const& rule,
                    folding const& out) {
    index_t const chunks = ops::chunks_of(text.extents(), rule);
    exec.for_each(text.extents().rows() * chunks, [=](index_t i) {
      ops::pair_chunk(text, fates, rule, out, i / chunks, i % chunks);
    });
    return {};
  }
};

KVSLIM_END_NAMESPACE
