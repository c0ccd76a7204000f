// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/run/attend_runs.cuh>
#include <kvslim/run/attend_scores.cuh>
#include <kvslim/run/attend_splits.cuh>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// Shared memory of a block: queries [head_dim, heads], weights of a step [threads, heads], sums
/// and what they lost to rounding, both [heads, parts, value_dim], every warp's largest logit
/// [warps, heads], and the positions that each head sees. Codecs in a basis of their own add their
/// queries [key_own_dim, heads] and sums, and a staging place of each warp; keys that warps rebuild
/// what these need. First of all, which split the block takes.
template <class Layout>
[[nodiscard]] KVSLIM_HD constexpr index_t attend_shared_floats(Layout const& layout,
                                                               index_t heads) noexcept {
  auto const& e = layout.extent;
  index_t const width = e.value_width(), key_own = layout.key_own_dim(),
                own = layout.value_own_dim();
  index_t const staged = max(key_own > 0 ? e.head_dim + key_own : 0, own > 0 ? width + own : 0);
  return split_words +
         heads * (e.head_dim + attend_threads + 2 * value_parts(width) * width + attend_warps + 2 +
                  key_own + 2 * value_parts(own) * own) +
         attend_warps * staged + score_floats<typename Layout::key_codec_type>(e.head_dim);
}

/// Whether whole runs go to matrix units: the codecs' units are fragments, and the shape fits what
/// a warp holds of them.
template <class Layout>
[[nodiscard]] constexpr bool attends_runs(Layout const& layout) noexcept {
  using key = typename Layout::key_codec_type;
  using value = typename Layout::value_codec_type;
  if constexpr (reads_runs<key, value>()) {
    using keys = key_runs<fragments_of<key>>;
    using values = value_runs<fragments_of<value>>;
    index_t const dim = run_key_dim(layout), width = run_value_dim(layout);
    return dim % (keys::by_channel ? 32 : 16) == 0 && dim <= most_run_key &&
           width <= (corrects_runs<key, value> ? slice_channels : most_run_value) &&
           keys::serves(fragment_codec<key>::of(layout.key)) &&
           values::serves(fragment_codec<value>::of(layout.value), width, !keys::by_channel);
  }
  return false;
}

/// Bytes of shared memory of a block in all.
template <class Layout>
[[nodiscard]] constexpr index_t attend_shared_bytes(Layout const& layout, index_t heads) noexcept {
  index_t floats = attend_shared_floats(layout, heads);
  if constexpr (reads_runs<typename Layout::key_codec_type, typename Layout::value_codec_type>())
    if (attends_runs(layout))
      floats += run_floats<typename Layout::key_codec_type, typename Layout::value_codec_type>(
          run_key_dim(layout), heads);
  return floats * static_cast<index_t>(sizeof(float));
}

/// Heads that one block serves: as many as are asked for and shared memory has room for, and four
/// at least where they are columns of a fragment. More shared memory than blocks have by themselves
/// is asked for where four warps share a run, whose blocks are large anyway, where matrix units
/// read codes in a basis of their own or that are corrected, so that eight heads share one read,
/// and where keys are rebuilt.
template <class Layout>
[[nodiscard]] constexpr int attend_heads(Layout const& layout, index_t virtual_heads) noexcept {
  auto const fits = [&](index_t heads) {
    bool const opts =
        scores_runs<typename Layout::key_codec_type> ||
        (attends_runs(layout) &&
         (corrects_runs<typename Layout::key_codec_type, typename Layout::value_codec_type> ||
          layout.extent.value_width() > 2 * slice_channels || layout.key_own_dim() > 0 ||
          layout.value_own_dim() > 0));
    return attend_shared_bytes(layout, heads) <= (opts ? most_opted_bytes : most_shared_bytes);
  };
  if (virtual_heads > 4 && fits(8)) return 8;
  return attends_runs(layout) || (virtual_heads > 1 && fits(4)) ? 4 : 1;
}

/// What a block writes if the cache was never filled.
__device__ inline void write_nothing(extents const& e, attend_request<cuda_space> const& a,
                                     attend_cut const& x) {
  int const item = static_cast<int>(blockIdx.x), row = item / x.pieces,
            first = item % x.pieces * x.piece_heads, kv_heads = static_cast<int>(e.kv_heads),
            s = row / kv_heads, width = static_cast<int>(e.value_width());
  if (row >= x.rows || (a.active != nullptr && a.active[s] == 0)) return;
  int const heads = min_int(x.piece_heads, x.virtual_heads - first);
  for (int h = 0; h < heads; ++h) {
    query_place const at(x, row % kv_heads, first + h);
    for (int d = static_cast<int>(threadIdx.x); d < width; d += attend_threads)
      a.out.put(s, at.head, at.token, d, 0.0f);
    if (threadIdx.x == 0)
      write_lse(a, at.row(a, s), a.sink_logits != nullptr ? a.sink_logits[at.head] : -INFINITY);
  }
}

/// Queries of keys in a basis of their own: own[j, heads] from q[dim, heads], a warp for each head.
template <int Heads, class Packed>
__device__ void prepare_queries(Packed const& packed, index_t r, float const* q, float* own,
                                float* staging) {
  using codec = typename Packed::key_codec_type;
  auto const keys = packed.keys(r);
  if (keys.coded == 0) return;
  int const dim = static_cast<int>(keys.dim), width = static_cast<int>(keys.sizes.own_dim),
            lane = lane_of_warp(), warp = static_cast<int>(threadIdx.x) / warp_threads;
  float* const from = staging + warp * (dim + width);
  float* const to = from + dim;
  for (int h = warp; h < Heads; h += attend_warps) {
    for (int d = lane; d < dim; d += warp_threads) from[d] = q[d * Heads + h];
    __syncwarp();
    warp_codec<codec>::prepare(keys.codec, from, keys.whole(), to);
    __syncwarp();
    for (int j = lane; j < width; j += warp_threads) own[j * Heads + h] = to[j];
    __syncwarp();
  }
}

/// Adds what values' blocks summed up in a basis of their own, own[heads, parts, own_dim] and what
/// it lost to rounding, to the first parts of the sums in channels; a warp for each head.
template <class Packed>
__device__ void finish_sums(Packed const& packed, index_t r, int heads, float const* own,
                            float const* own_lost, float* sums, float* lost, float* staging) {
  using codec = typename Packed::value_codec_type;
  auto const values = packed.values(r);
  if (values.coded == 0) return;
  int const width = static_cast<int>(values.dim), wide = static_cast<int>(values.sizes.own_dim),
            lane = lane_of_warp(), warp = static_cast<int>(threadIdx.x) / warp_threads;
  int const parts = value_parts(width), own_parts = value_parts(wide);
  float* const from = staging + warp * (width + wide);
  float* const to = from + wide;
  for (int h = warp; h < heads; h += attend_warps) {
    for (int j = lane; j < wide; j += warp_threads) {
      double sum = 0.0;
      for (int part = 0; part < own_parts; ++part) {
        int const at = (h * own_parts + part) * wide + j;
        sum += static_cast<double>(own[at]) + static_cast<double>(own_lost[at]);
      }
      from[j] = static_cast<float>(sum);
    }
    for (int d = lane; d < width; d += warp_threads) to[d] = 0.0f;
    __syncwarp();
    warp_codec<codec>::finish(values.codec, from, values.whole(), to);
    __syncwarp();
    for (int d = lane; d < width; d += warp_threads) {
      int const at = h * parts * width + d;
      add_exactly(sums[at], lost[at], 1.0f, to[d]);
    }
    __syncwarp();
  }
}

/// Adds the values of slots [step, step + n), weighted, to sums in channels or, with Own, in a
/// basis of their own: a thread to a channel, all slots (of a part of them) one after the other.
template <bool Own, int Heads, class Half>
__device__ void add_values(Half const& values, index_t step, int n, int width, float const* weights,
                           float const (&shrink)[Heads], float* sums, float* lost) {
  int const parts = value_parts(width), across = attend_threads / parts,
            part = static_cast<int>(threadIdx.x) / across, begin_part = part * across,
            end_part = static_cast<int>(min(n, begin_part + across));
  for (int d = static_cast<int>(threadIdx.x) % across; d < width; d += across) {
    float sum[Heads] = {};
    for (int done = begin_part; done < end_part;) {
      index_t const m = min(end_part - done, values.reach(step + done));
      float const* const p = weights + done * Heads;
      values.visit(step + done, m, [&](auto const& codec, std::byte const* block, site const& at) {
        using form = std::remove_cvref_t<decltype(codec)>;
        if constexpr (in_own_basis<form> == Own)
          warp_codec<form>::each_token(codec, block, at, d, [&](index_t i, float v) {
            unrolled<Heads>([&](int h) { sum[h] += p[i * Heads + h] * v; });
          });
      });
      done += static_cast<int>(m);
    }
    unrolled<Heads>([&](int h) {
      int const at = (h * parts + part) * width + d;
      add_exactly(sums[at], lost[at], shrink[h], sum[h]);
    });
  }
}

/// One block's work. For scores a thread is a slot; for values a thread is a channel, all slots of
/// the step one after the other (of a part of them where V has few channels).
template <int Heads, class Packed>
__device__ void attend_block(Packed const& packed, attend_request<cuda_space> const& a,
                             attend_cut const& x, float* shared) {
  auto const& e = packed.extents();
  // Stays in shared memory: registers are scarce.
  auto const& cut = *reinterpret_cast<split_place const*>(shared);
  row_block block = row_of_block<Heads>(e, x, cut);
  auto& [r, s, kv_head, first, heads, masked, visible] = block;
  int const dim = static_cast<int>(e.head_dim), width = static_cast<int>(e.value_width());
  int const thread = static_cast<int>(threadIdx.x), lane = thread % warp_threads,
            warp = thread / warp_threads, parts = value_parts(width);
  using key = typename Packed::key_codec_type;
  using value = typename Packed::value_codec_type;
  constexpr bool has_runs = Heads >= run_piece && reads_runs<key, value>();
  float* const memory = shared + split_words;
  float* q = memory;
  if constexpr (has_runs)
    if (x.runs) q += run_floats<key, value>(run_key_dim(packed.layout()), Heads);
  float* const weights = q + dim * Heads;
  float* const sums = weights + attend_threads * Heads;
  float* const lost = sums + Heads * parts * width;
  float* const highs = lost + Heads * parts * width;
  auto* const limit = reinterpret_cast<std::int32_t*>(highs + attend_warps * Heads);
  std::int32_t* const earliest = limit + Heads;
  constexpr bool keys_own = in_own_basis<typename Packed::key_codec_type>,
                 values_own = in_own_basis<typename Packed::value_codec_type>;
  int const own_width = static_cast<int>(packed.layout().value_own_dim()),
            own_floats = Heads * value_parts(own_width) * own_width;
  float* const own_q = highs + (attend_warps + 2) * Heads;
  float* const own_sums = own_q + static_cast<int>(packed.layout().key_own_dim()) * Heads;
  float* const own_lost = own_sums + own_floats;
  float* const rebuilding = own_lost + own_floats;
  float* const staging = rebuilding + score_floats<key>(dim);

  packed_row const& row = packed.raw_row(r);
  for (int i = thread; i < dim * Heads; i += attend_threads) {
    int const h = i / dim, d = i % dim;
    query_place const at(x, kv_head, first + h);
    q[d * Heads + h] = h < heads ? a.q.at(s, at.head, at.token, d) * x.scale : 0.0f;
  }
  for (int i = thread; i < 2 * Heads * parts * width; i += attend_threads) sums[i] = 0.0f;
  for (int i = thread; i < 2 * own_floats; i += attend_threads) own_sums[i] = 0.0f;
  if (thread < Heads) {
    index_t const token = min(query_place(x, kv_head, first + thread).token, a.q.tokens - 1);
    std::int32_t const own =
        a.positions != nullptr ? a.positions[s * a.q.tokens + token]
                               : row.next_position - static_cast<std::int32_t>(a.q.tokens - token);
    limit[thread] = own;
    earliest[thread] =
        a.window > 0 && a.window <= own ? own - static_cast<std::int32_t>(a.window) + 1 : 0;
  }
  masked = row.holes > 0 || a.positions != nullptr || a.q.tokens > 1 || a.window > 0;
  visible = {a.visible, r, &cut};
  auto const logits_of = [&](int h) {
    return a.logits + query_place(x, kv_head, first + h).row(a, s) * a.logits_stride;
  };
  if (a.logits != nullptr && a.visible.begin_end != nullptr)
    for (int h = 0; h < heads; ++h)
      for (index_t t = cut.begin + thread; t < min(index_t{cut.end}, a.logits_stride);
           t += attend_threads)
        logits_of(h)[t] = -INFINITY;
  prepare_scores(packed, rebuilding);
  __syncthreads();
  if constexpr (keys_own) {
    prepare_queries<Heads>(packed, r, q, own_q, staging);
    __syncthreads();
  }

  float most[Heads], total[Heads] = {}, total_lost[Heads] = {};
  for (float& m : most) m = -INFINITY;
  int whole = 0;
  if constexpr (has_runs)
    if (x.runs)
      whole = attend_runs(packed, a, x, {keys_own ? own_q : q, limit, earliest, memory, weights},
                          block, most, total, total_lost, values_own ? own_sums : sums,
                          values_own ? own_lost : lost);
  float const* const biases = packed.biases(r);
  run_positions const positions = packed.positions(r);
  float const soft_cap = packed.layout().logit.soft_cap;
  for (int span = 0; span < visible.count(); ++span) {
    auto const [first_slot, to] = visible[span];
    int const begin = max_int(first_slot, whole);
    for (int step = first_step<key>(begin); step < to; step += attend_threads) {
      int const n = min_int(attend_threads, to - step), slot = step + thread;
      float logit[Heads] = {};
      score_slots(packed, r, step, n, q, own_q, rebuilding, logit);
      if (thread < n && (!scores_runs<key> || slot >= begin)) {
        std::int32_t const position = masked ? positions[slot] : 0;
        float const bias = biases != nullptr ? biases[slot] : 0.0f;
        unrolled<Heads>([&](int h) {
          logit[h] = soft_capped(soft_cap, logit[h]) + bias;
          if (masked && (position == empty_slot || position > limit[h] || position < earliest[h]))
            logit[h] = -INFINITY;
          if (a.logits != nullptr && h < heads && slot < a.logits_stride)
            logits_of(h)[slot] = logit[h];
        });
      } else {
        unrolled<Heads>([&](int h) { logit[h] = -INFINITY; });
      }
      unrolled<Heads>([&](int h) {
        float const high =
            over_warp(logit[h], [](float one, float other) { return fmaxf(one, other); });
        if (lane == 0) highs[warp * Heads + h] = high;
      });
      __syncthreads();
      float shrink[Heads];
      unrolled<Heads>([&](int h) {
        float high = most[h];
        for (int w = 0; w < attend_warps; ++w) high = fmaxf(high, highs[w * Heads + h]);
        bool const none = high == -INFINITY;  // nothing visible yet
        shrink[h] = none ? 1.0f : ops::exp_nonpositive(most[h] - high);
        float const p = none ? 0.0f : ops::exp_nonpositive(logit[h] - high);
        add_exactly(total[h], total_lost[h], shrink[h], p);
        most[h] = high;
        weights[thread * Heads + h] = p;
      });
      __syncthreads();
      auto const values = packed.values(r);  // not before: registers are scarce
      add_values<false, Heads>(values, step, n, width, weights, shrink, sums, lost);
      if constexpr (values_own)
        add_values<true, Heads>(values, step, n, own_width, weights, shrink, own_sums, own_lost);
    }
  }

  __syncthreads();
  if constexpr (values_own) {
    finish_sums(packed, r, heads, own_sums, own_lost, sums, lost, staging);
    __syncthreads();
  }
  unrolled<Heads>([&](int h) {
    double const sum = over_warp(static_cast<double>(total[h]) + static_cast<double>(total_lost[h]),
                                 [](double one, double other) { return one + other; });
    if (lane == 0) {
      weights[(warp * Heads + h) * 2] = static_cast<float>(sum);
      weights[(warp * Heads + h) * 2 + 1] =
          static_cast<float>(sum - static_cast<double>(static_cast<float>(sum)));
    }
    if (thread == 0) highs[h] = most[h];
  });
  __syncthreads();
  for (int h = 0; h < heads; ++h) {
    ops::softmax_state state{highs[h], 0.0};
    for (int w = 0; w < attend_warps; ++w)
      for (int i = 0; i < 2; ++i)
        state.total += static_cast<double>(weights[(w * Heads + h) * 2 + i]);
    auto const sum_of_channel = [&](int d) {
      double sum = 0.0;
      for (int part = 0; part < parts; ++part) {
        int const at = (h * parts + part) * width + d;
        sum += static_cast<double>(sums[at]) + static_cast<double>(lost[at]);
      }
      return sum;
    };
    if (cut.splits > 1) {
      float* const to = x.partial(e, cut.place, first + h);
      for (int d = thread; d < width; d += attend_threads)
        to[d] = static_cast<float>(sum_of_channel(d));
      if (thread == 0) {
        to[width] = state.most;
        to[width + 1] = static_cast<float>(state.total);
        to[width + 2] = static_cast<float>(state.total - static_cast<double>(to[width + 1]));
      }
      continue;
    }
    query_place const at(x, kv_head, first + h);
    float own = 1.0f;
    if (a.sink_logits != nullptr) own = state.merge({a.sink_logits[at.head], 1.0}).mine;
    double const inverse = state.total > 0.0 ? static_cast<double>(own) / state.total : 0.0;
    for (int d = thread; d < width; d += attend_threads)
      a.out.put(s, at.head, at.token, d, static_cast<float>(sum_of_channel(d) * inverse));
    if (thread == 0) write_lse(a, at.row(a, s), state.log_sum());
  }
  if (cut.splits > 1) finish_split<Heads>(e, a, x, shared);
}

/// Blocks that a multiprocessor's registers must be enough for. Eight heads and a scale for each
/// channel of K do not fit what three blocks leave, nor do corrections.
template <class Key, class Value, bool Wide>
[[nodiscard]] consteval int blocks_together() {
  if constexpr (reads_runs<Key, Value>())
    return corrects_runs<Key, Value> || (Wide && key_runs<fragments_of<Key>>::by_channel) ? 2 : 3;
  else
    return 1;
}

/// One kernel per pair of codecs: heads, types and all that a request asks for are run-time fields.
/// Where matrix units read runs, eight heads have a kernel of their own, for its registers.
template <class Packed, bool Wide = false>
KVSLIM_DETAIL_KERNEL void __launch_bounds__(
    attend_threads,
    blocks_together<typename Packed::key_codec_type, typename Packed::value_codec_type, Wide>())
    attend_kernel(KVSLIM_DETAIL_PARAMETER Packed const packed,
                  KVSLIM_DETAIL_PARAMETER attend_request<cuda_space> const a,
                  KVSLIM_DETAIL_PARAMETER attend_cut const x) {
  KVSLIM_DETAIL_DYNAMIC_SHARED(shared);
  if (!is_filled(packed)) return write_nothing(packed.extents(), a, x);
  if (!find_split(packed, a, x, shared)) return;
  constexpr bool apart =
      reads_runs<typename Packed::key_codec_type, typename Packed::value_codec_type>();
  if constexpr (Wide || !apart)
    if (Wide || x.piece_heads == 8) return attend_block<8>(packed, a, x, shared);
  if constexpr (!Wide) {
    if (x.piece_heads == 4)
      attend_block<4>(packed, a, x, shared);
    else
      attend_block<1>(packed, a, x, shared);
  }
}

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

/// Bytes of scratch that attend() needs on a stream, in device memory: partial results of rows that
/// are split, and a count of each row's. 0 where rows are not split, and where attend_bytes(layout,
/// ...), which is never less, is 0.
template <class Layout>
[[nodiscard]] constexpr std::size_t attend_bytes(cuda, Layout const& layout, index_t q_heads,
                                                 index_t q_tokens = 1,
                                                 index_t splits = 1) noexcept {
  if (splits < 2 || attend_bytes(layout, q_heads, q_tokens, splits) == 0) return 0;
  auto const& e = layout.extent;
  index_t const all = q_heads / e.kv_heads * q_tokens,
                pieces = detail::div_up(all, detail::attend_heads(layout, all));
  return static_cast<std::size_t>(e.rows() * (splits * all * detail::partial_floats(e) + pieces)) *
         sizeof(float);
}

/// attend() on a stream, over the same stored bytes: compiled and run with emulated threads, not
/// yet measured on a GPU. Blocks share rows, request.splits of them for each row on average: a
/// row's part of them is read from its length on the device, so that a long row among short ones
/// gets most. That pays while rows are too few to fill the device or unlike in length; only then is
/// scratch needed: attend_bytes(exec, layout, q_heads, q_tokens, splits), whatever is in it. The
/// last block of a row merges it, always in one order. A cache that was never filled is taken for
/// an empty one.
///
/// Returns: invalid_pointer, invalid_shape, invalid_option, buffer_too_small, unsupported (a grid
/// beyond CUDA's), cuda. Queries are not checked for NaN; logits are cut at logits_stride. Cost:
/// one read of the stored bytes per 8 query heads (4 or 1 where wide heads fill shared memory).
template <class Key, class Value>
status attend(cuda exec, packed_cache<Key, Value, cuda_space> const& packed,
              attend_request<cuda_space> const& a, workspace scratch = {}) {
  if (auto const s = detail::check_attend(packed, a); !s) return s;
  auto const& e = packed.extents();
  index_t const group = a.q.heads / e.kv_heads, all = group * a.q.tokens,
                rows = a.q.sequences * e.kv_heads;
  int const heads = detail::attend_heads(packed.layout(), all);
  index_t const pieces = detail::div_up(all, heads);
  if (a.splits > 1) {
    if (scratch.data == nullptr)
      return detail::fail(errc::invalid_pointer, "kvslim: attend with splits needs scratch");
    auto const needed = attend_bytes(exec, packed.layout(), a.q.heads, a.q.tokens, a.splits);
    if (needed == 0)
      return detail::fail(errc::invalid_shape, "kvslim: attend was asked for too much at once");
    if (auto const s = detail::check_workspace(scratch, needed); !s) return s;
  }
  for (index_t const count : {all, rows * pieces * a.splits, e.rows()})
    if (count > detail::most_blocks)
      return detail::fail(errc::unsupported, "kvslim: attend needs more blocks than a grid has");
  auto* const partials = static_cast<float*>(static_cast<void*>(scratch.data));
  auto* const tickets = a.splits == 1
                            ? nullptr
                            : static_cast<unsigned*>(static_cast<void*>(
                                  partials + rows * a.splits * all * detail::partial_floats(e)));
  detail::attend_cut const x{static_cast<int>(group),
                             static_cast<int>(all),
                             static_cast<int>(pieces),
                             static_cast<int>(a.splits),
                             static_cast<int>(a.first_sequence * e.kv_heads),
                             static_cast<int>(rows),
                             heads,
                             detail::attends_runs(packed.layout()),
                             detail::logit_scale(packed.layout().logit, e.head_dim),
                             partials,
                             tickets};
  auto const shared = detail::attend_shared_bytes(packed.layout(), heads);
  auto* kernel = detail::attend_kernel<packed_cache<Key, Value, cuda_space>>;
  if constexpr (detail::reads_runs<Key, Value>())
    if (heads == 8) kernel = detail::attend_kernel<packed_cache<Key, Value, cuda_space>, true>;
  if (tickets != nullptr)
    if (auto const s =
            detail::fill_bytes(exec, tickets, 0, rows * pieces * index_t{sizeof(unsigned)});
        !s)
      return s;
  return detail::launch(exec, {rows * pieces * a.splits, detail::attend_threads, shared}, kernel,
                        packed, a, x);
}

KVSLIM_END_NAMESPACE
