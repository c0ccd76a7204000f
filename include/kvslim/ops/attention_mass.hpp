// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/concepts.hpp>
#include <kvslim/core/logit.hpp>
#include <kvslim/ops/pool.hpp>
#include <kvslim/ops/query_lanes.hpp>
#include <kvslim/ops/rows.hpp>

#include <cmath>

KVSLIM_BEGIN_NAMESPACE

namespace ops {

/// Query vectors that look at a row together: queries [first, first + queries) of query heads
/// [head, head + heads). Query i of head g is lane g * queries + i.
struct query_block {
  index_t sequence, kv_head, first, queries, head, heads;

  [[nodiscard]] KVSLIM_HD constexpr index_t lanes() const noexcept {
    return detail::round_up(queries * heads, 16);
  }
};

/// Lanes that are filled where there are queries enough, and tokens whose logits are held at a
/// time.
inline constexpr index_t lanes_together = 128, panel_lanes = 64, tokens_together = 24;

/// Floats that attention_shares works in.
[[nodiscard]] KVSLIM_HD constexpr index_t share_floats(index_t head_dim, index_t lanes) noexcept {
  return 16 + lanes * (head_dim + 4 + tokens_together) + tokens_together * head_dim;
}

/// Every probability of a block of queries, the newest seeing ranks [0, length), each before it one
/// less: calls use(rank, n, x) in order for stretches of ranks [0, end), where x [n, lanes] holds
/// probability * weight(query), 0 for what a query does not see. Two passes over K; nothing of
/// shape [queries, tokens] is stored. scratch: share_floats. This is the one loop that every scorer
/// by attention runs.
template <class Text, class Queries, class Weight, class Use>
inline void attention_shares(Text const& text, Queries const& queries, logit_rule const& logit,
                             query_block const& b, index_t length, index_t end, float* scratch,
                             Weight const& weight, Use const& use) noexcept {
  using detail::load_by_kernel, detail::prefetch_row;
  index_t const s = b.sequence, h = b.kv_head, dim = text.extents().head_dim, lanes = b.lanes(),
                count = b.queries * b.heads,
                shared = length - b.queries + 1;  // ranks that every query sees
  float const scale = detail::logit_scale(logit, dim);
  // Vectors that span two lines take twice the time.
  auto const past = static_cast<index_t>(reinterpret_cast<std::uintptr_t>(scratch) / 4 % 16);
  float* const q =
      scratch +
      (past == 0 ? 0 : 16 - past);  // panels of 64 lanes, [dim, 64] each: what a cache holds
  float *const most = q + lanes * dim, *const total = most + lanes, *const lost = total + lanes,
               *const factor = lost + lanes;
  float *const k = factor + lanes, *const logits = k + tokens_together * dim;
  for (index_t j = 0; j < lanes; ++j) {
    if (j < count) queries.load(s, b.head + j / b.queries, b.first + j % b.queries, k);
    index_t const panel = j - j % panel_lanes, wide = detail::min(panel_lanes, lanes - panel);
    float* const mine = q + panel * dim + j % panel_lanes;
    for (index_t d = 0; d < dim; ++d) mine[d * wide] = j < count ? k[d] * scale : 0.0f;
    most[j] = -INFINITY;
    total[j] = lost[j] = 0.0f;
  }
  auto const each_stretch = [&](index_t stop, auto const& go_on) {
    for (index_t t = 0; t < stop; t += tokens_together) {
      index_t const n = detail::min(tokens_together, stop - t);
      for (index_t i = 0; i < n; ++i) load_by_kernel(text.key(s, h, t + i), k + i * dim);
      index_t const panels = detail::div_up(lanes, panel_lanes),
                    ahead = detail::min(tokens_together, stop - t - n);
      for (index_t p = 0; p < panels; ++p) {
        // The next keys come while these are multiplied.
        for (index_t i = p * ahead / panels; i < (p + 1) * ahead / panels; ++i)
          prefetch_row(text.key(s, h, t + n + i));
        index_t const j = p * panel_lanes;
        multiply_lanes(q + j * dim, detail::min(panel_lanes, lanes - j), k, dim, n, logits + j,
                       lanes);
      }
      if (logit.soft_cap > 0.0f) cap_logits(logit.soft_cap, n * lanes, logits);
      for (index_t i = 0; i < n; ++i) {
        float* const x = logits + i * lanes;
        float const bias = text.logit_bias(s, h, t + i);
        for (index_t j = 0; j < lanes && bias != 0.0f; ++j) x[j] += bias;
        index_t const blind = detail::min(b.queries, t + i + 1 - shared);  // queries before it
        for (index_t g = 0; g < b.heads && blind > 0; ++g)
          for (index_t w = 0; w < blind; ++w) x[g * b.queries + w] = -INFINITY;
      }
      go_on(t, n);
    }
  };
  each_stretch(length,
               [&](index_t, index_t n) { add_totals(logits, n, lanes, most, total, lost); });
  for (index_t j = 0; j < lanes; ++j)  // a query that sees nothing gives nothing
    factor[j] = total[j] > 0.0f ? weight(j % b.queries) / (total[j] - lost[j]) : 0.0f;
  each_stretch(end, [&](index_t t, index_t n) {
    make_shares(logits, n, lanes, most, factor);
    use(t, n, static_cast<float const*>(logits));
  });
}

struct mass_options {
  pooling kind = pooling::average;
  index_t kernel = 1;  ///< odd; 1 means no pooling
  reduce heads = reduce::mean;
  bool reduce_first = false;  ///< query heads are reduced before pooling, not after
  bool by_visible = false;    ///< a query counts as often as it sees earlier tokens
  logit_rule logit = {};
};

/// How much query w of a window behind `prefix` tokens counts.
[[nodiscard]] KVSLIM_HD constexpr float query_weight(mass_options const& o, index_t prefix,
                                                     index_t w) noexcept {
  return o.by_visible ? static_cast<float>(prefix + w) : 1.0f;
}

/// Query heads whose windows look together.
[[nodiscard]] KVSLIM_HD constexpr index_t heads_together(index_t window) noexcept {
  return detail::max(1, lanes_together / window);
}

/// Floats of scratch that attention_mass needs for each row: what a block of queries works in, then
/// two numbers of every token.
[[nodiscard]] KVSLIM_HD constexpr index_t mass_floats(extents const& e, index_t window) noexcept {
  return share_floats(detail::round_up(e.head_dim, 8),
                      detail::round_up(window * heads_together(window), 16)) +
         2 * e.tokens;
}

/// Numbers of tokens for some heads, which arrive in order and are pooled as soon as their
/// neighbours are there.
struct pooled_heads {
  pooling kind;
  index_t kernel, count, heads;  ///< count: tokens in all
  float* held;                   ///< [heads, room]
  index_t first = 0, have = 0, made = 0;

  [[nodiscard]] KVSLIM_HD static constexpr index_t room(index_t kernel, index_t count) noexcept {
    return detail::min(count, kernel - 1 + tokens_together);
  }
  /// Where the next numbers of head 0 go, at most tokens_together; those of head h, h rooms later.
  [[nodiscard]] float* next() noexcept {
    index_t const keep = detail::max(0, made - kernel / 2);  // first that is still needed
    for (index_t h = 0; h < heads && keep > first; ++h) {
      float* const mine = held + h * room(kernel, count);
      for (index_t i = keep; i < have; ++i) mine[i - keep] = mine[i - first];
    }
    first = keep;
    return held + (have - first);
  }
  /// n numbers of each head came; calls use(token, n, pooled) for those that are whole now, head
  /// after head.
  template <class Use>
  void arrived(index_t n, Use const& use) noexcept {
    have += n;
    index_t const stop = have == count ? count : detail::max(made, have - kernel / 2);
    for (index_t h = 0; h < heads; ++h)
      for (index_t t = made; t < stop; t += 8) {
        float pooled[8];
        index_t const here = detail::min(8, stop - t);
        pool_some(held + h * room(kernel, count), t, here, pooled);
        use(t, here, static_cast<float const*>(pooled));
      }
    made = stop;
  }

 private:
  void pool_some(float const* in, index_t t, index_t n, float* out) const noexcept {
    index_t const half = kernel / 2;
    if (kind == pooling::average && n == 8 && t >= half && t + 8 + half <= count) {
      float sum[8] = {};  // of each in the order of pooled_at
      for (index_t j = t - half - first; j <= t + half - first; ++j)
        for (index_t i = 0; i < 8; ++i) sum[i] += in[j + i];
      for (index_t i = 0; i < 8; ++i) out[i] = sum[i] / static_cast<float>(kernel);
      return;
    }
    for (index_t i = 0; i < n; ++i)
      out[i] = pooled_at(kind, in, t + i - first, detail::max(0, t + i - half) - first,
                         detail::min(count - 1, t + i + half) - first, kernel);
  }
};

struct attention_mass_op {};

/// Attention of the newest `window` queries to every earlier token: mean over the window, pooled
/// along the text per query head, then reduced over the query heads of each KV head (or first
/// reduced, then pooled). Scores of the window itself, and of rows no longer than it, are 0.
///
/// Shapes: queries [sequence, q_head, window, head_dim], the newest tokens of each sequence; out
/// [rows, tokens] by rank; scratch [rows, mass_floats]. Requires: q_heads a multiple of kv_heads.
/// Cost: 4 * q_heads * window * tokens * head_dim flop per sequence; K is read twice for as many
/// query heads as fill 128 lanes with their windows. Source: arXiv:2404.14469, section 4.
template <class Exec, class Text, class Queries>
status attention_mass(Exec const& exec, Text const& text, Queries const& queries,
                      mass_options const& options, score_view out, float* scratch) {
  return implementation<attention_mass_op, Exec>::run(exec, text, queries, options, out, scratch);
}

}  // namespace ops

template <host_executor Exec>
struct implementation<ops::attention_mass_op, Exec> {
  template <class Text, class Queries>
  static status run(Exec const& exec, Text const& text, Queries const& queries,
                    ops::mass_options const& options, score_view out, float* scratch) {
    auto const e = text.extents();
    index_t const group = queries.heads / e.kv_heads, window = queries.tokens,
                  floats = ops::mass_floats(e, window),
                  kernel = options.reduce_first ? 1 : options.kernel;
    exec.for_each(e.rows(), [=](index_t r) {
      index_t const s = r / e.kv_heads, h = r % e.kv_heads, length = text.tokens(s, h),
                    prefix = detail::max(0, length - window);
      float* const held = scratch + r * floats;  // [2, tokens]
      float* const work = held + 2 * e.tokens;
      float* const scores = out.row(r);
      for (index_t t = 0; t < e.tokens; ++t) scores[t] = 0.0f;
      if (prefix == 0) return;
      index_t const room = ops::pooled_heads::room(kernel, prefix),
                    together = detail::min(ops::heads_together(window), 2 * e.tokens / room);
      for (index_t g = 0; g < group; g += together) {
        ops::query_block const b{s, h, 0, window, h * group + g, detail::min(together, group - g)};
        ops::pooled_heads pools{options.kind, kernel, prefix, b.heads, held};
        auto const weight = [&](index_t w) {
          return ops::query_weight(options, prefix, w) / static_cast<float>(window);
        };
        ops::attention_shares(
            text, queries, options.logit, b, length, prefix, work, weight,
            [&](index_t, index_t n, float const* x) {
              ops::sum_lanes(x, n, b.lanes(), b.heads, window, pools.next(), room);
              pools.arrived(n, [&](index_t t, index_t m, float const* mass) {
                for (index_t i = 0; i < m; ++i) {
                  float const add =
                      options.heads == reduce::mean ? mass[i] / static_cast<float>(group) : mass[i];
                  scores[t + i] = detail::reduce_step(options.heads, scores[t + i], add);
                }
              });
            });
      }
      if (!options.reduce_first) return;
      ops::pool(options.kind, scores, prefix, options.kernel, held);
      for (index_t t = 0; t < prefix; ++t) scores[t] = held[t];
    });
    return {};
  }
};

KVSLIM_END_NAMESPACE
