// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/concepts.hpp>
#include <kvslim/isa/projection_kernels.hpp>
#include <kvslim/ops/finite.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace ops {

/// Channels of a gate's keys and queries at most.
inline constexpr index_t most_gate_dim = 32;
/// Tokens that the CPU projects together, and channels of their states at a time.
inline constexpr index_t gate_tokens = 8, gate_channels = 256;

/// Floats of scratch per row: parts of states and of a weight, keys, queries.
[[nodiscard]] KVSLIM_HD constexpr index_t gate_floats(extents const&) noexcept {
  return (gate_tokens + 1) * gate_channels + 2 * gate_tokens * most_gate_dim;
}

/// Which tokens of a row come before all that the gate scores.
struct gate_protection {
  index_t sinks = 0;   ///< first tokens
  double part = 0.0;   ///< of a row's tokens, rounded down: newest ones, at least one
  index_t window = 0;  ///< newest tokens in rows of `long_row` tokens and more
  index_t long_row = 0;

  [[nodiscard]] KVSLIM_HD constexpr bool covers(index_t rank, index_t tokens) const noexcept {
    index_t const share = static_cast<index_t>(static_cast<double>(tokens) * part);
    return rank < sinks || rank >= tokens - (tokens < long_row ? detail::max(1, share) : window);
  }
};

/// Hidden states and gates that a scorer may read: there, of shapes that fit each other and the
/// cache, finite.
template <class Space>
[[nodiscard]] status check_gates(hidden_states<Space> const& h, gate_weights<Space> const& w,
                                 extents const& e) noexcept {
  auto const& x = h.states;
  if (x.data == nullptr)
    return detail::fail(errc::invalid_pointer, "kvslim: the hidden states are a null pointer");
  if ((x.heads != 1 && x.heads != e.kv_heads) || x.head_dim < 1 ||
      !x.has_shape(e.sequences, x.heads, e.tokens, x.head_dim))
    return detail::fail(errc::invalid_shape,
                        "kvslim: hidden states must be [sequences, 1 or kv_heads, cells, width]");
  if constexpr (std::same_as<Space, host_space>) {
    if (!all_within(x, largest_float))
      return detail::fail(errc::non_finite, "kvslim: the hidden states hold NaN or infinity");
  }
  index_t const heads = w.query.heads, dim = w.query.tokens, sinks = w.sinks.tokens;
  if (w.query.data != nullptr && (heads < 1 || heads % e.kv_heads != 0 || dim < 1 ||
                                  dim > most_gate_dim || (w.sinks.data != nullptr && sinks < 1)))
    return detail::fail(errc::invalid_shape,
                        "kvslim: a gate needs n * kv_heads query heads of 1 to 32 channels, and "
                        "sinks");
  if (auto const s = check_table(w.query, e, heads, dim, x.head_dim); !s) return s;
  if (auto const s = check_table(w.query_bias, e, heads, 1, dim); !s) return s;
  if (auto const s = check_table(w.query_gain, e, 1, 1, dim); !s) return s;
  if (auto const s = check_table(w.key, e, e.kv_heads, dim, x.head_dim); !s) return s;
  if (auto const s = check_table(w.key_gain, e, 1, 1, dim); !s) return s;
  if (auto const s = check_table(w.sinks, e, e.kv_heads, sinks, dim); !s) return s;
  return check_table(w.offset, e, e.kv_heads, 1, heads / e.kv_heads);
}

/// Divides a row by its root mean square and multiplies it by the layer's gain.
template <class Space>
KVSLIM_HD inline void gate_normalize(rows<Space> const& gain, index_t s, index_t dim, float* x) {
  float squares = 0.0f;
  for (index_t d = 0; d < dim; ++d) squares += x[d] * x[d];
  float const inverse = 1.0f / std::sqrt(squares / static_cast<float>(dim) + 1e-6f);
  for (index_t d = 0; d < dim; ++d) x[d] *= inverse * gain.at(s % gain.sequences, 0, 0, d);
}

/// What one query head says: the key's share of a softmax against the learned sinks.
template <class Space>
[[nodiscard]] KVSLIM_HD inline float gate_share(gate_weights<Space> const& w, index_t s, index_t h,
                                                index_t g, float const* key, float const* query) {
  index_t const dim = w.query.tokens;
  float const scale = 1.0f / std::sqrt(static_cast<float>(dim));
  float own = 0.0f, others = 0.0f;
  for (index_t d = 0; d < dim; ++d) own += key[d] * query[d];
  own = own * scale + w.offset.at(s % w.offset.sequences, h, 0, g);
  for (index_t i = 0; i < w.sinks.tokens; ++i) {
    float sink = 0.0f;
    w.sinks.visit(s % w.sinks.sequences, h, i, [&](auto const* base) {
      for (index_t d = 0; d < dim; ++d)
        sink += to_float(base[d * w.sinks.layout.channel]) * query[d];
    });
    others += std::exp(sink * scale - own);
  }
  return 1.0f / (1.0f + others);
}

struct hidden_gate_op {};

/// Scores every token by its layer's gate: the mean over a KV head's query heads of gate_share.
/// Protected tokens score the largest float.
///
/// Shapes: hidden_states and gate_weights as they say; out [rows, tokens] by rank; scratch [rows,
/// gate_floats]. Cost: 2 * dim * width * (q_heads + kv_heads) flop a token, one read of the weights
/// for every 8 tokens (CPU) or 128 (CUDA).
template <class Exec, class Text, class Space>
status hidden_gate(Exec const& exec, Text const& text, hidden_states<Space> const& states,
                   gate_weights<Space> const& weights, gate_protection const& protection,
                   score_view out, float* scratch) {
  return implementation<hidden_gate_op, Exec>::run(exec, text, states, weights, protection, out,
                                                   scratch);
}

}  // namespace ops

template <host_executor Exec>
struct implementation<ops::hidden_gate_op, Exec> {
  template <class Text, class Space>
  static status run(Exec const& exec, Text const& text, hidden_states<Space> const& states,
                    gate_weights<Space> const& w, ops::gate_protection const& protection,
                    score_view out, float* scratch) {
    auto const e = text.extents();
    exec.for_each(e.rows(), [=](index_t r) {
      float* const mine = scratch + r * ops::gate_floats(e);
      float* const keys = mine + (ops::gate_tokens + 1) * ops::gate_channels;
      float* const queries = keys + ops::gate_tokens * ops::most_gate_dim;
      index_t const s = r / e.kv_heads, h = r % e.kv_heads, n = text.tokens(s, h);
      index_t const dim = w.query.tokens, group = w.query.heads / e.kv_heads;
      float* const scores = out.row(r);
      for (index_t t = 0; t < e.tokens; ++t) scores[t] = 0.0f;
      for (index_t t = 0; t < n; t += ops::gate_tokens) {
        index_t const some = detail::min(ops::gate_tokens, n - t);
        project(text, states.states, w.key, {s, h, h, t, some}, mine, keys);
        for (index_t i = 0; i < some; ++i)
          ops::gate_normalize(w.key_gain, s, dim, keys + i * ops::most_gate_dim);
        for (index_t g = 0; g < group; ++g) {
          index_t const head = h * group + g;
          project(text, states.states, w.query, {s, h, head, t, some}, mine, queries);
          for (index_t i = 0; i < some; ++i) {
            float* const q = queries + i * ops::most_gate_dim;
            for (index_t d = 0; d < dim; ++d)
              q[d] += w.query_bias.at(s % w.query_bias.sequences, head, 0, d);
            ops::gate_normalize(w.query_gain, s, dim, q);
            scores[t + i] += ops::gate_share(w, s, h, g, keys + i * ops::most_gate_dim, q) /
                             static_cast<float>(group);
          }
        }
      }
      for (index_t t = 0; t < n; ++t)
        if (protection.covers(t, n)) scores[t] = ops::largest_float;
    });
    return {};
  }

 private:
  struct some_tokens {
    index_t sequence, kv_head, head, first, count;
  };

  /// Projects a few tokens' states by one head's weights [dim, width].
  template <class Text, class Space>
  KVSLIM_HD static void project(Text const& text, rows<Space> const& states,
                                rows<Space> const& weights, some_tokens const& at, float* scratch,
                                float* out) {
    index_t const width = weights.head_dim, head = states.heads == 1 ? 0 : at.kv_head;
    float* const weight = scratch + ops::gate_tokens * ops::gate_channels;
    for (index_t i = 0; i < at.count * ops::most_gate_dim; ++i) out[i] = 0.0f;
    for (index_t c = 0; c < width; c += ops::gate_channels) {
      index_t const here = detail::min(ops::gate_channels, width - c);
      auto const load = [&](rows<Space> const& x, index_t s, index_t h, index_t t, float* to) {
        x.visit(s, h, t, [&](auto const* in) {
          if (x.layout.channel != 1 || !detail::widen_run(in + c, here, to))
            detail::load_channels(in + c * x.layout.channel, x.layout.channel, here, to);
        });
      };
      for (index_t i = 0; i < at.count; ++i)
        load(states, at.sequence, head, text.cell(at.sequence, at.kv_head, at.first + i),
             scratch + i * ops::gate_channels);
      for (index_t d = 0; d < weights.tokens; ++d) {
        load(weights, at.sequence % weights.sequences, at.head, d, weight);
        if (here == ops::gate_channels &&
            detail::project_rows(scratch, at.count, here, weight, 1, out + d, ops::most_gate_dim))
          continue;
        for (index_t i = 0; i < at.count; ++i)
          out[i * ops::most_gate_dim + d] +=
              ops::dot(scratch + i * ops::gate_channels, weight, here);
      }
    }
  }
};

KVSLIM_END_NAMESPACE
