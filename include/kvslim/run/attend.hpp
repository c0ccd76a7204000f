// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/ops/exp.hpp>
#include <kvslim/ops/observe.hpp>
#include <kvslim/run/attend_piece.hpp>
#include <kvslim/run/given_rows.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Slots that attention may look at: of row r the ranges [begin_end[2 i], begin_end[2 i + 1]) for i
/// in [0, counts[r]), ascending and disjoint, `most` ranges apart in memory. Only their bytes are
/// read. Null: all slots.
struct visible_spans {
  std::int32_t const* begin_end = nullptr;  ///< [rows, most, 2]
  std::int32_t const* counts = nullptr;     ///< [rows]
  index_t most = 0;
};

/// What attend() is asked. All run-time fields of one kernel.
template <class Space = host_space>
struct attend_request {
  rows<Space> q;        ///< [sequence, q_head, n, head_dim], of any element type
  rows_out<Space> out;  ///< [sequence, q_head, n, value_dim]
  float* lse =
      nullptr;  ///< [sequence, q_head, n]: log of the sum of exponentials; -inf: saw nothing

  std::int32_t const* positions = nullptr;  ///< [sequence, n] of the queries; null: the newest n
  index_t first_sequence = 0;  ///< q's first sequence is this one of the cache: a layer of several
  std::uint8_t const* active = nullptr;  ///< [sequence]: 0 leaves its out and lse as they are
  index_t window = 0;                    ///< a query sees this many newest positions; 0: all
  visible_spans visible = {};
  float const* sink_logits = nullptr;  ///< [q_head]: a logit that takes mass and gives nothing
  float* logits = nullptr;    ///< [sequence, q_head, n, logits_stride] by slot, for observe
  index_t logits_stride = 0;  ///< at least the most slots of a row
  bool base2 = false;         ///< lse in base 2
  index_t splits = 1;         ///< work items of a row (CUDA: on average); above 1 they need scratch
  attend_precision precision = attend_precision::tight;
};

namespace detail {

/// What soften does, by plain loops.
KVSLIM_HD inline void soften_plainly(float* scores, index_t runs, index_t heads,
                                     index_t const* sizes, float* high, float* sum) noexcept {
  for (index_t h = 0; h < heads; ++h) {
    float most = high[h];
    for (index_t r = 0; r < runs; ++r)
      for (index_t i = 0; i < sizes[r]; ++i) {
        float const x = scores[(r * heads + h) * run_tokens + i];
        most = x > most ? x : most;
      }
    high[h] = most;
    sum[h] = 0.0f;
    for (index_t r = 0; r < runs; ++r) {
      float* const x = scores + (r * heads + h) * run_tokens;
      // Nothing visible yet: every logit so far is -inf.
      for (index_t i = 0; i < sizes[r]; ++i)
        x[i] = most == -INFINITY ? 0.0f : ops::exp_nonpositive(x[i] - most);
      sum[h] += ops::sum_run(x, sizes[r]);
    }
  }
}

/// What else a logit is made of: a cap, a bias, what a query may not see; kept where that is asked.
template <class Packed>
KVSLIM_HD KVSLIM_DETAIL_APART void finish_logits(Packed const& packed, index_t r, index_t t,
                                                 index_t n, bool masked, attend_piece const& piece,
                                                 float* scores) {
  float const soft_cap = packed.layout().logit.soft_cap;
  float const* const biases = packed.biases(r);
  run_positions const positions = packed.positions(r);
  for (index_t h = 0; h < piece.heads; ++h) {
    float* const x = scores + h * run_tokens;
    if (soft_cap > 0.0f)
      for (index_t i = 0; i < n; ++i) x[i] = soft_capped(soft_cap, x[i]);
    if (biases != nullptr)
      for (index_t i = 0; i < n; ++i) x[i] += biases[t + i];
    if (masked)
      for (index_t i = 0; i < n; ++i) {
        std::int32_t const p = positions[t + i];
        if (p == empty_slot || p > piece.limit[h] || p < piece.earliest[h]) x[i] = -INFINITY;
      }
    if (piece.logits[h] != nullptr)
      for (index_t i = 0; i < n; ++i) piece.logits[h][t + i] = x[i];
  }
}

/// Streams slots [begin, end) of row r through one piece, step by step, with one running maximum
/// per head. `masked`: slots may be holes or hidden from some queries.
template <class Packed>
KVSLIM_HD inline void attend_slots(Packed const& packed, index_t r, index_t begin, index_t end,
                                   bool masked, attend_piece& piece) {
  auto const keys = packed.keys(r);
  auto const values = packed.values(r);
  auto const& layout = packed.layout();
  index_t const dim = layout.extent.value_width(), own = layout.value_own_dim(),
                heads = piece.heads, run_floats = heads * run_tokens,
                most_runs = min(step_runs, piece.step_rows / heads);
  bool const special = layout.logit.soft_cap > 0.0f || packed.biases(r) != nullptr || masked ||
                       piece.logits[0] != nullptr;

  float* const scores = piece.scores;
  float most[run_heads], total[run_heads];
  for (index_t h = 0; h < heads; ++h) {
    most[h] = piece.state[h].most;
    total[h] = 0.0f;
  }
  index_t in_stretch = 0;
  for (index_t t = begin; t < end;) {
    index_t sizes[step_runs], runs = 0, after = t;
    while (runs < most_runs && after < end) {
      index_t const together = runs_together(keys, after, end, most_runs - runs);
      index_t const n = together > 1 ? together * run_tokens : min(end - after, keys.reach(after));
      float* const x = scores + runs * run_floats;
      for (index_t i = 0; i < together * run_floats; ++i) x[i] = 0.0f;
      dot_step(keys, after, n, values.coded_at(after, n), piece, x);
      for (index_t left = n; left > 0; left -= run_tokens) {
        index_t const m = sizes[runs] = min(left, run_tokens);
        if (special) finish_logits(packed, r, after, m, masked, piece, scores + runs * run_floats);
        after += m;
        ++runs;
      }
    }
    float high[run_heads], sum[run_heads];
    for (index_t h = 0; h < heads; ++h) high[h] = most[h];
    // What values are fetched by then; of longer ones, the rest is asked for meanwhile.
    coded_bytes const read = values.coded_at(t, after - t);
    std::byte const* const rest = read.size > fetch_lead ? read.at + fetch_lead : nullptr;
    if (!soften(scores, runs, heads, sizes, high, sum, rest))
      soften_plainly(scores, runs, heads, sizes, high, sum);
    for (index_t h = 0; h < heads; ++h) {
      if (high[h] > most[h] && most[h] == -INFINITY) {
        most[h] = high[h];  // all sums are zero still
      } else if (high[h] > most[h]) {
        float const shrink = std::exp(most[h] - high[h]);
        total[h] *= shrink;
        for (index_t d = 0; d < dim; ++d) piece.sums.local[h * dim + d] *= shrink;
        for (index_t d = 0; d < own; ++d) piece.own.local[h * own + d] *= shrink;
        most[h] = high[h];
      }
      total[h] += sum[h];
    }
    in_stretch += after - t;
    index_t ahead = after;  // of K, to be fetched while V is read
    for (index_t run = 0; run < runs;) {
      float const* const p = scores + run * run_floats;
      index_t whole = run;  // runs from here on that are whole
      while (whole < runs && sizes[whole] == run_tokens) ++whole;
      index_t const together = runs_together(values, t, after, whole - run);
      index_t const n = together > 1 ? together * run_tokens : sizes[run];
      coded_bytes const next = keys.coded_at(ahead, n);
      if (together > 1) {
        accumulate_step(values, t, n, next, p, piece);
      } else {
        for (index_t done = 0; done < n;) {
          index_t const m = min(n - done, values.reach(t + done));
          accumulate_step(values, t + done, m, next, p + done, piece);
          done += m;
        }
      }
      run += together;
      t += n;
      ahead += n;
    }
    if (in_stretch >= attend_stretch) {
      fold_stretch(piece, dim, own, total, most);
      for (index_t h = 0; h < heads; ++h) total[h] = 0.0f;
      in_stretch = 0;
    }
  }
  fold_stretch(piece, dim, own, total, most);
}

/// Calls attend_slots for the visible part of [begin, end).
template <class Packed>
KVSLIM_HD inline void attend_visible(Packed const& packed, index_t r, index_t begin, index_t end,
                                     bool masked, visible_spans const& spans, attend_piece& piece) {
  if (spans.begin_end == nullptr) return attend_slots(packed, r, begin, end, masked, piece);
  std::int32_t const* const mine = spans.begin_end + r * spans.most * 2;
  for (index_t i = 0; i < spans.counts[r]; ++i) {
    index_t const from = max(begin, mine[2 * i]), to = min(end, mine[2 * i + 1]);
    if (from < to) attend_slots(packed, r, from, to, masked, piece);
  }
}

/// What both backends check. Host memory is also checked for NaN and infinity.
template <class Packed, class Space>
[[nodiscard]] status check_attend(Packed const& packed, attend_request<Space> const& a) noexcept {
  auto const& e = packed.extents();
  if (packed.storage() == nullptr || a.q.data == nullptr || a.out.data == nullptr ||
      a.lse == nullptr)
    return fail(errc::invalid_pointer, "kvslim: attend was given a null pointer");
  if (auto const s = packed.layout().check(); !s) return s;
  if (auto const s = check_tables(packed); !s) return s;
  if (a.first_sequence < 0 || a.q.sequences < 1 || a.q.sequences > e.sequences - a.first_sequence ||
      a.q.head_dim != e.head_dim || a.q.tokens < 1 || (index_t{1} << 20) < a.q.tokens ||
      a.q.heads < 1 || (index_t{1} << 20) < a.q.heads || a.q.heads % e.kv_heads != 0)
    return fail(errc::invalid_shape,
                "kvslim: the query must be [sequences, n * kv_heads, tokens, head_dim]");
  if (!a.out.has_shape(a.q.sequences, a.q.heads, a.q.tokens, e.value_width()))
    return fail(errc::invalid_shape,
                "kvslim: the output must be [sequences, q_heads, tokens, value_dim]");
  if (a.window < 0 || a.splits < 1 || (index_t{1} << 16) < a.splits)
    return fail(errc::invalid_option, "kvslim: attend needs window >= 0 and 1 <= splits <= 65536");
  if (a.precision != attend_precision::tight && a.precision != attend_precision::fast)
    return fail(errc::invalid_option, "kvslim: attend knows the precisions tight and fast");
  if (a.visible.begin_end != nullptr && (a.visible.counts == nullptr || a.visible.most < 1))
    return fail(errc::invalid_pointer, "kvslim: visible spans need counts and most");
  return {};
}

/// Slots of the longest row, for choosing splits.
template <class Packed>
[[nodiscard]] index_t longest_row(Packed const& packed) noexcept {
  index_t longest = 0;
  for (index_t r = 0; r < packed.extents().rows(); ++r)
    longest = max(longest, packed.raw_row(r).slots);
  return longest;
}

/// Fills a piece for work item `item` and loads its queries.
template <class Packed>
KVSLIM_HD inline void begin_piece(Packed const& packed, attend_request<host_space> const& a,
                                  attend_shape const& x, index_t r, index_t first, float scale,
                                  float* memory, bool carries, attend_piece& piece) {
  auto const& e = packed.extents();
  index_t const s = r / e.kv_heads - a.first_sequence, h = r % e.kv_heads;
  packed_row const& row = packed.raw_row(r);
  index_t const width = e.value_width();
  piece.heads = min(x.piece_heads, x.virtual_heads - first);
  piece.precision = a.precision;
  piece.room = piece.kept = nullptr;
  piece.fresh = true;
  if (x.digits > 0) {
    piece.room = static_cast<digit_rows*>(static_cast<void*>(memory));
    piece.kept = piece.room + digit_room;
    for (index_t i = 0; i < x.digits; ++i) piece.room[i].from = nullptr;
    memory += x.digits * digit_row_floats;
  }
  piece.step_rows = x.step_rows;
  piece.scores = memory;
  memory += x.step_rows * run_tokens;
  piece.q = memory;
  piece.own_q = piece.q + x.piece_heads * e.head_dim;
  index_t const key_own = packed.layout().key_own_dim(),
                value_own = packed.layout().value_own_dim();
  float* const rest =
      piece.sums.carve(piece.own_q + x.piece_heads * key_own, x.piece_heads * width, carries);
  if (value_own > 0) piece.own.carve(rest, x.piece_heads * value_own, carries);
  for (index_t i = 0; i < piece.heads; ++i) {
    index_t const v = first + i, token = v / x.group, q_head = h * x.group + v % x.group;
    float* const q = piece.q + i * e.head_dim;
    load_given(a.q, s, q_head, token, q);
    scale_given(q, e.head_dim, scale);
    if constexpr (in_own_basis<typename Packed::key_codec_type>)
      if (auto const keys = packed.keys(r); keys.coded > 0)
        keys.codec.prepare(q, keys.whole(), piece.own_q + i * key_own);
    std::int32_t const own =
        a.positions != nullptr ? a.positions[s * a.q.tokens + token]
                               : row.next_position - static_cast<std::int32_t>(a.q.tokens - token);
    piece.limit[i] = own;
    piece.earliest[i] =
        a.window > 0 && a.window <= own ? own - static_cast<std::int32_t>(a.window) + 1 : 0;
    piece.logits[i] =
        a.logits == nullptr
            ? nullptr
            : a.logits + ((s * a.q.heads + q_head) * a.q.tokens + token) * a.logits_stride;
    piece.state[i] = {};
  }
}

/// Adds what the values' blocks summed up in a basis of their own to the sums in channels.
template <class Packed>
KVSLIM_HD inline void finish_piece(Packed const& packed, index_t r, attend_piece const& piece) {
  if constexpr (in_own_basis<typename Packed::value_codec_type>) {
    auto const values = packed.values(r);
    index_t const own = values.sizes.own_dim;
    for (index_t h = 0; h < piece.heads && values.coded > 0; ++h) {
      float* const sum = piece.own.sum + h * own;
      if (piece.own.carry != nullptr)
        for (index_t d = 0; d < own; ++d) sum[d] += piece.own.carry[h * own + d];
      values.codec.finish(sum, values.whole(), piece.sums.sum + h * values.dim);
    }
  }
}

/// Writes the result of one virtual head: sums over the total, and the log-sum-exp.
KVSLIM_HD inline void write_head(attend_request<host_space> const& a, attend_shape const& x,
                                 index_t s, index_t h, index_t virtual_head,
                                 ops::softmax_state state, float* sum, float const* carry,
                                 index_t width) {
  index_t const token = virtual_head / x.group, q_head = h * x.group + virtual_head % x.group;
  float shrink = 1.0f;
  if (a.sink_logits != nullptr) shrink = state.merge({a.sink_logits[q_head], 1.0}).mine;
  double const inverse = state.total > 0.0 ? static_cast<double>(shrink) / state.total : 0.0;
  if (carry == nullptr)
    scale_given(sum, width, static_cast<float>(inverse));
  else
    for (index_t d = 0; d < width; ++d)
      sum[d] = static_cast<float>((static_cast<double>(sum[d]) + static_cast<double>(carry[d])) *
                                  inverse);
  store_given(a.out, s, q_head, token, sum);
  float const lse = state.log_sum();
  a.lse[(s * a.q.heads + q_head) * a.q.tokens + token] = a.base2 ? lse * 1.44269504f : lse;
}

/// One work item: a piece of heads over a split of a row. Whole rows are written out, splits go to
/// `partials` [row, virtual head, split] of partial_floats.
template <class Packed>
KVSLIM_HD inline void attend_item(Packed const& packed, attend_request<host_space> const& a,
                                  attend_shape const& x, index_t first_row, float scale,
                                  index_t item, float* memory, bool carries, float* partials) {
  auto const& e = packed.extents();
  index_t const split = item % x.splits, r = first_row + item / x.splits / x.pieces;
  index_t const first = item / x.splits % x.pieces * x.piece_heads, width = e.value_width();
  packed_row const& row = packed.raw_row(r);
  attend_piece piece;
  begin_piece(packed, a, x, r, first, scale, memory, carries, piece);
  bool const masked = row.holes > 0 || a.positions != nullptr || a.q.tokens > 1 || a.window > 0;
  index_t const share = round_up(div_up(row.slots, x.splits), run_tokens);
  index_t const begin = min(row.slots, split * share), end = min(row.slots, begin + share);
  if (piece.logits[0] != nullptr && a.visible.begin_end != nullptr)
    for (index_t i = 0; i < piece.heads; ++i)
      for (index_t t = begin; t < end; ++t) piece.logits[i][t] = -INFINITY;
  attend_visible(packed, r, begin, end, masked, a.visible, piece);
  finish_piece(packed, r, piece);
  for (index_t i = 0; i < piece.heads; ++i) {
    float* const sum = piece.sums.sum + i * width;
    float const* const carry = piece.sums.carry != nullptr ? piece.sums.carry + i * width : nullptr;
    if (x.splits == 1) {
      write_head(a, x, r / e.kv_heads - a.first_sequence, r % e.kv_heads, first + i, piece.state[i],
                 sum, carry, width);
      continue;
    }
    float* const to =
        partials +
        (((r - first_row) * x.virtual_heads + first + i) * x.splits + split) * partial_floats(e);
    for (index_t d = 0; d < width; ++d) to[d] = sum[d] + (carry == nullptr ? 0.0f : carry[d]);
    to[width] = piece.state[i].most;
    auto const high = static_cast<float>(piece.state[i].total);
    to[width + 1] = high;
    to[width + 2] = static_cast<float>(piece.state[i].total - static_cast<double>(high));
  }
}

template <class Packed>
KVSLIM_DETAIL_APART inline void attend_on_stack(Packed const& packed,
                                                attend_request<host_space> const& a,
                                                attend_shape const& x, index_t first_row,
                                                float scale, index_t item, bool carries) {
  float memory[attend_stack_floats + run_tokens];
  attend_item(packed, a, x, first_row, scale, item, memory, carries, nullptr);
}

/// Merges the splits of one (row, virtual head) into the first one's sums and writes it out.
template <class Packed>
KVSLIM_HD inline void merge_splits(Packed const& packed, attend_request<host_space> const& a,
                                   attend_shape const& x, index_t i, float* partials) {
  auto const& e = packed.extents();
  index_t const width = e.value_width(), floats = partial_floats(e);
  float* const sum = partials + i * x.splits * floats;
  auto const state_of = [&](index_t split) {
    float const* const at = sum + split * floats + width;
    return ops::softmax_state{at[0], static_cast<double>(at[1]) + static_cast<double>(at[2])};
  };
  auto state = state_of(0);
  for (index_t split = 1; split < x.splits; ++split) {
    auto const f = state.merge(state_of(split));
    float const* const other = sum + split * floats;
    for (index_t d = 0; d < width; ++d) sum[d] = sum[d] * f.mine + other[d] * f.other;
  }
  index_t const row = i / x.virtual_heads;
  write_head(a, x, row / e.kv_heads, row % e.kv_heads, i % x.virtual_heads, state, sum, nullptr,
             width);
}

}  // namespace detail

/// Bytes of scratch with which attend serves 8 query heads in one pass over a row and may split
/// rows; they do not depend on the rows' lengths. Without scratch a row is one work item, and a
/// pass serves as many heads as fit 6 KiB of stack; where the processor has AVX2 and no more, codes
/// take 6.3 KiB of it besides.
template <class Layout>
[[nodiscard]] constexpr std::size_t attend_bytes(Layout const& layout, index_t q_heads,
                                                 index_t q_tokens = 1,
                                                 index_t splits = 1) noexcept {
  auto const& e = layout.extent;
  constexpr index_t most = index_t{1} << 20, most_floats = index_t{1} << 57;
  if (!layout.check() || q_heads < 1 || q_tokens < 1 || q_heads % e.kv_heads != 0 || splits < 1 ||
      q_heads > most || q_tokens > most || splits > (index_t{1} << 16))
    return 0;
  auto const x =
      detail::shape_attend(layout, q_heads, q_tokens, splits, true, detail::attend_any_floats);
  index_t const row = x.piece_floats + x.piece_heads * detail::partial_floats(e);
  if (x.pieces > most_floats / splits / row / e.rows()) return 0;
  index_t const items = e.rows() * x.pieces * splits;
  index_t const partial =
      splits > 1 ? e.rows() * x.virtual_heads * splits * detail::partial_floats(e) : 0;
  return static_cast<std::size_t>(items * x.piece_floats + partial) * sizeof(float) +
         alignof(detail::digit_rows);
}

/// Attention of one or more query tokens per sequence over a stored cache, read as it is stored:
/// nothing is decoded to memory. With several query tokens, or given positions, each sees positions
/// up to its own; a single query without a position sees everything.
///
/// Bound: see README, "Promises". Scratch: null, or attend_bytes(layout, q_heads, q_tokens,
/// splits). Returns: invalid_pointer, invalid_shape, invalid_option, buffer_too_small, corrupt
/// (never filled), non_finite (query, sink logits); then nothing was written. Cost: one read of the
/// stored bytes per 8 query heads (without scratch: as many as fit 6 KiB).
template <host_executor Exec, class Key, class Value>
status attend(Exec const& exec, packed_cache<Key, Value, host_space> const& packed,
              attend_request<host_space> const& a, workspace scratch = {}) {
  if (auto const s = detail::check_attend(packed, a); !s) return s;
  if (!packed.ready())
    return detail::fail(errc::corrupt, "kvslim: the packed cache was never filled");
  if (!detail::all_given_within(a.q, ops::largest_float))
    return detail::fail(errc::non_finite, "kvslim: the query holds NaN or infinity");
  auto const& e = packed.extents();
  index_t const longest = detail::longest_row(packed);
  if (a.logits != nullptr && a.logits_stride < longest)
    return detail::fail(errc::invalid_shape, "kvslim: logits_stride is below a row's slots");
  for (index_t h = 0; a.sink_logits != nullptr && h < a.q.heads; ++h)
    if (!is_finite(a.sink_logits[h]))
      return detail::fail(errc::non_finite, "kvslim: a sink logit is NaN or infinite");
  bool const roomy = scratch.data != nullptr;
  bool const carries = roomy || longest > detail::attend_short;
  if (!roomy && a.splits > 1)
    return detail::fail(errc::invalid_pointer, "kvslim: attend with splits needs scratch");
  if (!roomy && detail::attend_head_floats(packed.layout(), carries) > detail::attend_stack_floats)
    return detail::fail(errc::buffer_too_small,
                        "kvslim: attend over such wide heads needs scratch of attend_bytes()");
  if (roomy) {
    std::size_t const needed = attend_bytes(packed.layout(), a.q.heads, a.q.tokens, a.splits);
    if (needed == 0)
      return detail::fail(errc::invalid_shape, "kvslim: attend was asked for too much at once");
    if (auto const s = detail::check_workspace(scratch, needed); !s) return s;
  }
  auto const x =
      detail::shape_attend(packed.layout(), a.q.heads, a.q.tokens, a.splits, carries,
                           roomy ? detail::attend_any_floats : detail::attend_stack_floats);
  index_t const rows = a.q.sequences * e.kv_heads, first_row = a.first_sequence * e.kv_heads;
  constexpr std::size_t line = alignof(detail::digit_rows);
  std::size_t const past = reinterpret_cast<std::uintptr_t>(scratch.data) % line;
  float* const work =
      static_cast<float*>(static_cast<void*>(scratch.data + (past == 0 ? 0 : line - past)));
  float* const partials = roomy ? work + rows * x.pieces * x.splits * x.piece_floats : nullptr;
  float const scale = detail::logit_scale(packed.layout().logit, e.head_dim);
  constexpr bool serial = std::is_same_v<Exec, cpu>;  // all items work in what the caches hold
  exec.for_each(rows * x.pieces * x.splits, [=](index_t item) {
    if (a.active != nullptr && a.active[item / x.splits / x.pieces / e.kv_heads] == 0) return;
    if (roomy)
      detail::attend_item(packed, a, x, first_row, scale, item,
                          work + (serial ? 0 : item * x.piece_floats), true, partials);
    else
      detail::attend_on_stack(packed, a, x, first_row, scale, item, carries);
  });
  if (x.splits > 1)
    exec.for_each(rows * x.virtual_heads, [=](index_t i) {
      if (a.active != nullptr && a.active[i / x.virtual_heads / e.kv_heads] == 0) return;
      detail::merge_splits(packed, a, x, i, partials);
    });
  return {};
}

KVSLIM_END_NAMESPACE
