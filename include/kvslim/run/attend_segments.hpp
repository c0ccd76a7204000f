// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/run/merge_attention.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// Floats of one segment's partial result: out as f32, and lse.
[[nodiscard]] constexpr index_t segment_floats(extents const& e, index_t q_heads,
                                               index_t q_tokens) noexcept {
  return round_up(e.sequences * q_heads * q_tokens * (e.value_width() + 1), 16);
}

}  // namespace detail

/// Bytes of scratch for attend_segments over caches of these layouts; 0 where one of them cannot
/// serve the request.
template <class First, class... Layouts>
[[nodiscard]] constexpr std::size_t segments_bytes(index_t q_heads, index_t q_tokens,
                                                   index_t splits, First const& first,
                                                   Layouts const&... others) noexcept {
  std::size_t const each[] = {attend_bytes(first, q_heads, q_tokens, splits),
                              attend_bytes(others, q_heads, q_tokens, splits)...};
  std::size_t most = 0;
  for (std::size_t const bytes : each) {
    if (bytes == 0) return 0;
    most = bytes > most ? bytes : most;
  }
  constexpr auto count = static_cast<index_t>(1 + sizeof...(Layouts));
  return most +
         static_cast<std::size_t>(count * detail::segment_floats(first.extent, q_heads, q_tokens)) *
             sizeof(float);
}

namespace detail {

/// attend_segments(), whatever the executor: attend() and finish() are its.
template <class Space, class Exec, class... Packed>
[[nodiscard]] status run_segments(Exec const& exec, attend_request<Space> const& a,
                                  workspace scratch, Packed const&... packed) {
  constexpr auto count = static_cast<index_t>(sizeof...(Packed));
  if (a.logits != nullptr || a.visible.begin_end != nullptr)
    return fail(errc::unsupported,
                "kvslim: logits and visible spans belong to one cache: call attend() for "
                "each, then finish()");
  if (a.positions == nullptr && (a.q.tokens > 1 || a.window > 0))
    return fail(errc::invalid_pointer,
                "kvslim: over several caches the queries' positions must be given");
  status done{};
  static_cast<void>(((done = check_attend(packed, a), done.ok()) && ...));
  if (!done) return done;
  if constexpr (std::same_as<Space, host_space>)
    for (index_t h = 0; a.sink_logits != nullptr && h < a.q.heads; ++h)
      if (!is_finite(a.sink_logits[h]))
        return fail(errc::non_finite, "kvslim: a sink logit is NaN or infinite");
  std::size_t const needed = segments_bytes(a.q.heads, a.q.tokens, a.splits, packed.layout()...);
  if (needed == 0)
    return fail(errc::invalid_shape, "kvslim: attend was asked for too much at once");
  if (auto const s = check_workspace(scratch, needed); !s) return s;
  index_t const rows = a.q.sequences * a.q.heads * a.q.tokens, dim = a.out.head_dim;
  index_t const floats = round_up(rows * (dim + 1), 16);
  auto* const all = static_cast<float*>(static_cast<void*>(scratch.data));
  workspace const rest{scratch.data + static_cast<std::size_t>(count * floats) * sizeof(float),
                       scratch.bytes - static_cast<std::size_t>(count * floats) * sizeof(float)};
  attention_part<Space> parts[static_cast<std::size_t>(count)];
  index_t i = 0;
  auto const one = [&](auto const& cache) {
    float* const out = all + i * floats;
    auto mine = a;
    auto const shape = rows_shape{a.q.sequences, a.q.heads, a.q.tokens, dim};
    mine.out = dense_rows<Space>(out, shape);
    mine.lse = out + rows * dim;
    mine.sink_logits = nullptr;
    mine.base2 = false;
    parts[i] = {dense_rows<Space>(out, shape), mine.lse};
    ++i;
    return attend(exec, cache, mine, rest);
  };
  static_cast<void>(((done = one(packed), done.ok()) && ...));
  if (!done) return done;
  return finish(exec, slice<attention_part<Space> const>{parts, count}, a);
}

}  // namespace detail

/// Attention over several stored caches that hold disjoint tokens of the same sequences (sinks and
/// body, tiers of different codecs, a shared prefix and what follows) as if they were one: attends
/// each, then finishes.
///
/// With several query tokens or a window the request gives `positions`, because no single cache
/// knows which are the newest. Visible spans and logits are of one cache: attend those one by one
/// and call finish(). Scratch of segments_bytes(q_heads, q_tokens, splits, layouts...).
/// Returns: as attend(); unsupported (visible spans, logits); then nothing was written. Cost:
/// attend()'s over each cache, and one write and read of the partial results.
template <host_executor Exec, class... Key, class... Value>
requires(sizeof...(Key) > 0) status
    attend_segments(Exec const& exec, attend_request<host_space> const& a, workspace scratch,
                    packed_cache<Key, Value, host_space> const&... packed) {
  return detail::run_segments(exec, a, scratch, packed...);
}

KVSLIM_END_NAMESPACE
