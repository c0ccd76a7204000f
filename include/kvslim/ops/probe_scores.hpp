// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/ops/attention_mass.hpp>
#include <kvslim/ops/finite.hpp>
#include <kvslim/ops/probed_text.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace ops {

/// What becomes of the attention of several queries to one token.
enum class paid : std::uint8_t { sum, squares, maximum };

[[nodiscard]] KVSLIM_HD constexpr float pay(paid how, float so_far, float p) noexcept {
  if (how == paid::maximum) return p > so_far ? p : so_far;
  return so_far + (how == paid::squares ? p * p : p);
}

struct probe_options {
  index_t sinks = 4;  ///< first tokens: every query sees them; they score largest_float
  paid queries = paid::sum;
  reduce heads = reduce::mean;
};

/// Queries that look at once, and stretches of tokens whose softmax sums CUDA keeps.
inline constexpr index_t probes_together = lanes_together, probe_sums = 16;

/// Floats of scratch per row: what a block of queries works in, and one for every token.
[[nodiscard]] KVSLIM_HD constexpr index_t probe_score_floats(extents const& e) noexcept {
  return detail::max(share_floats(e.head_dim, probes_together), 2 * probes_together * probe_sums) +
         e.tokens;
}

/// Probes that a scorer may read: there, of the right shape, finite, in stretches that ascend.
template <class Space>
[[nodiscard]] status check_probes(probes<Space> const& x, extents const& e) noexcept {
  if (auto const s = check_queries(x.queries, e); !s) return s;
  if (x.keys.data != nullptr) {
    if (!x.keys.has_shape(e.sequences, e.kv_heads, x.queries.tokens, e.head_dim))
      return detail::fail(errc::invalid_shape,
                          "kvslim: the probes' keys must be [sequences, kv_heads, queries, "
                          "head_dim]");
    if constexpr (std::same_as<Space, host_space>)
      if (!all_within(x.keys, largest_float))
        return detail::fail(errc::non_finite, "kvslim: the probes' keys hold NaN or infinity");
  }
  if (x.stretches.size > 0 && x.stretches.data == nullptr)
    return detail::fail(errc::invalid_pointer, "kvslim: the probes' stretches are a null pointer");
  index_t end = 0;
  for (auto const& part : x.stretches) {
    if (part.first_query < 0 || part.queries < 0 ||
        part.queries > x.queries.tokens - detail::min(part.first_query, x.queries.tokens) ||
        part.first_token < end || part.tokens < 0 ||
        part.tokens > extents::most_tokens - detail::min(part.first_token, extents::most_tokens))
      return detail::fail(errc::invalid_shape,
                          "kvslim: stretches of probes must lie within the queries, and their "
                          "tokens ascend");
    end = part.first_token + part.tokens;
  }
  return {};
}

/// Calls use(stretch) for every stretch, or for all queries and all tokens.
template <class Space, class Use>
[[nodiscard]] status each_stretch(probes<Space> const& x, extents const& e, Use const& use) {
  if (x.stretches.size == 0) return use(probe_stretch{0, x.queries.tokens, 0, e.tokens});
  for (auto const& part : x.stretches)
    if (auto const s = use(part); !s) return s;
  return {};
}

struct probe_scores_op {};

/// Scores of tokens by what probes pay to them: for every stretch, the softmax of each of its
/// queries over the sinks, the stretch's tokens and the stretch's own keys up to the query; over
/// queries as options say, then over the query heads of a KV head. Tokens of no stretch score 0.
///
/// Shapes: out [rows, tokens] by rank; scratch [rows, probe_score_floats]. Cost: for each stretch
/// 4 * q_heads * queries * (sinks + tokens + queries) * head_dim flop; K is read twice for every
/// query head and 128 queries.
template <class Exec, class Text, class Space>
status probe_scores(Exec const& exec, Text const& text, probes<Space> const& x,
                    probe_options const& options, score_view out, float* scratch) {
  return implementation<probe_scores_op, Exec>::run(exec, text, x, options, out, scratch);
}

/// The score of a token before any query looked.
[[nodiscard]] KVSLIM_HD constexpr float unprobed(probe_options const& o, index_t t,
                                                 index_t n) noexcept {
  return t < detail::min(n, o.sinks) ? largest_float : 0.0f;
}

/// Adds what one query head's queries paid.
[[nodiscard]] KVSLIM_HD constexpr float add_head(reduce how, float so_far, float x,
                                                 index_t group) noexcept {
  return detail::reduce_step(how, so_far, how == reduce::mean ? x / static_cast<float>(group) : x);
}

}  // namespace ops

template <host_executor Exec>
struct implementation<ops::probe_scores_op, Exec> {
  template <class Text, class Space>
  static status run(Exec const& exec, Text const& text, probes<Space> const& x,
                    ops::probe_options const& options, score_view out, float* scratch) {
    auto const e = text.extents();
    index_t const group = x.queries.heads / e.kv_heads;
    exec.for_each(e.rows(), [=](index_t r) {
      index_t const s = r / e.kv_heads, h = r % e.kv_heads, n = text.tokens(s, h);
      float* const scores = out.row(r);
      float* const sum = scratch + r * ops::probe_score_floats(e);
      float* const work = sum + e.tokens;
      for (index_t t = 0; t < e.tokens; ++t) scores[t] = ops::unprobed(options, t, n);
      auto const look = [&](probe_stretch const& part) -> status {
        ops::probed_text<Text> seen{text, {}, 0, options.sinks, part.first_token, part.tokens};
        index_t const context = seen.context(s, h), head = seen.head(s, h);
        for (index_t g = 0; g < group && context > head; ++g) {
          for (index_t t = 0; t < context; ++t) sum[t] = 0.0f;
          for (index_t b = 0; b < part.queries; b += ops::probes_together) {
            index_t const here = detail::min(ops::probes_together, part.queries - b);
            bool const own = x.keys.data != nullptr;
            if (own) seen.keys = x.keys.part(part.first_query, b + here);
            seen.queries = own ? b + here : here;
            ops::query_block const block{s, h, part.first_query + b, here, h * group + g, 1};
            ops::attention_shares(
                seen, x.queries, {}, block, context + seen.queries, context, work,
                [](index_t) { return 1.0f; },
                [&](index_t t, index_t m, float const* p) {
                  for (index_t i = 0; i < m; ++i)
                    pay_all(options.queries, p + i * block.lanes(), here, sum[t + i]);
                });
          }
          for (index_t t = head; t < context; ++t) {
            float& to = scores[seen.rank(s, h, t)];
            if (seen.rank(s, h, t) >= options.sinks)
              to = ops::add_head(options.heads, to, sum[t], group);
          }
        }
        return {};
      };
      static_cast<void>(ops::each_stretch(x, e, look));
    });
    return {};
  }

 private:
  static void pay_all(ops::paid how, float const* p, index_t n, float& sum) noexcept {
    if (how == ops::paid::sum) {
      float here = 0.0f;
      ops::sum_lanes(p, 1, n, 1, n, &here, 1);
      sum += here;
      return;
    }
    for (index_t i = 0; i < n; ++i) sum = ops::pay(how, sum, p[i]);
  }
};

KVSLIM_END_NAMESPACE
