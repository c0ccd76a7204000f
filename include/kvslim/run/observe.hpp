// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/run/attend.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// Slots whose masses are reduced together.
inline constexpr index_t observe_run = 64;

/// What query token t of the step's sequence s paid to slots [first, first + n) of a KV head,
/// reduced over its query heads. `logits` and `lse` are attend()'s.
template <class Request>
KVSLIM_HD inline void reduce_masses(Request const& a, reduce how, index_t s, index_t first_head,
                                    index_t group, index_t t, index_t first, index_t n,
                                    float* mass) noexcept {
  for (index_t g = 0; g < group; ++g) {
    index_t const row = (s * a.q.heads + first_head + g) * a.q.tokens + t;
    float const lse = a.base2 ? a.lse[row] * 0.69314718f : a.lse[row];
    float const* const logits = a.logits + row * a.logits_stride + first;
    if (lse == -INFINITY) {  // saw nothing
      for (index_t i = 0; i < n; ++i) mass[i] = g == 0 ? 0.0f : reduce_step(how, mass[i], 0.0f);
      continue;
    }
    for (index_t i = 0; i < n; ++i) {
      float const x = logits[i] - lse;  // rounding may leave it just above 0
      float const p = ops::exp_nonpositive(x < 0.0f ? x : 0.0f);
      mass[i] = g == 0 ? p : reduce_step(how, mass[i], p);
    }
  }
  for (index_t i = 0; i < n; ++i) mass[i] = reduce_end(how, mass[i], group);
}

/// Slots [first, first + n) of row r learn what each query of a step paid to them; n at most
/// observe_run.
template <class Scorer, class Packed, class Request>
KVSLIM_HD inline void observe_slots(Scorer const& scorer, Packed const& packed, Request const& a,
                                    index_t r, index_t first, index_t n) {
  using column = column_of<Scorer>;
  auto const& e = packed.extents();
  packed_row const& x = packed.raw_row(r);
  index_t const s = r / e.kv_heads - a.first_sequence, h = r % e.kv_heads;
  index_t const group = a.q.heads / e.kv_heads;
  run_positions const positions = packed.positions(r);
  auto* const columns = static_cast<column*>(static_cast<void*>(packed.columns(r)));
  for (index_t i = first; i < first + n; ++i)
    if (positions[i] >= x.observed)
      columns[i] = scorer.born(place{r, positions[i], positions[i], x.tokens()});
  for (index_t t = 0; t < a.q.tokens; ++t) {
    float mass[observe_run] = {};
    reduce_masses(a, Scorer::traits.heads, s, h * group, group, t, first, n, mass);
    std::int32_t const now = a.positions != nullptr
                                 ? a.positions[s * a.q.tokens + t]
                                 : x.next_position - static_cast<std::int32_t>(a.q.tokens - t);
    for (index_t i = 0; i < n; ++i) {
      std::int32_t const position = positions[first + i];
      if (position == empty_slot || position > now) continue;  // the query came before the token
      scorer.observe(columns[first + i], mass[i],
                     place{r, position, now, x.tokens() - (a.q.tokens - 1 - t)});
    }
  }
}

template <class Packed, class Space>
[[nodiscard]] status check_observe(Packed const& packed, attend_request<Space> const& a,
                                   index_t column_bytes) noexcept {
  if (auto const s = check_attend(packed, a); !s) return s;
  if (a.logits == nullptr)
    return fail(errc::invalid_pointer, "kvslim: observe needs the logits that attend wrote");
  int const i = packed.layout().find(side_kind::column);
  if (i < 0 || packed.layout().sides[i].bytes != column_bytes)
    return fail(errc::unsupported,
                "kvslim: the cache has no columns of this scorer: plan with .evicts = true");
  return {};
}

}  // namespace detail

/// Shows a scorer what a step's queries paid to every held token: fills its columns. Run it after
/// attend() with the same request, whose logits and final lse it reads (over several caches: after
/// their log-sum-exp was merged).
///
/// Requires: the scorer of the pipeline that planned the cache with `.evicts = true`.
/// Returns: invalid_pointer, invalid_shape, unsupported, corrupt. Cost: one read of the logits and
/// one read and write of the columns.
template <host_executor Exec, class Scorer, class Key, class Value>
status observe(Exec const& exec, Scorer const& scorer,
               packed_cache<Key, Value, host_space> const& packed,
               attend_request<host_space> const& a) {
  static_assert(Scorer::traits.observes, "kvslim: this scorer observes nothing");
  if (auto const s =
          detail::check_observe(packed, a, detail::column_bytes<detail::column_of<Scorer>>);
      !s)
    return s;
  if (!packed.ready())
    return detail::fail(errc::corrupt, "kvslim: the packed cache was never filled");
  if (a.logits_stride < detail::longest_row(packed))
    return detail::fail(errc::invalid_shape, "kvslim: logits_stride is below a row's slots");
  auto const& e = packed.extents();
  index_t const first = a.first_sequence * e.kv_heads;
  exec.for_each(a.q.sequences * e.kv_heads, [=, &scorer](index_t i) {
    if (a.active != nullptr && a.active[i / e.kv_heads] == 0) return;
    packed_row& x = packed.raw_row(first + i);
    for (index_t slot = 0; slot < x.slots; slot += detail::observe_run)
      detail::observe_slots(scorer, packed, a, first + i, slot,
                            detail::min(detail::observe_run, x.slots - slot));
    x.observed = x.next_position;
  });
  return {};
}

KVSLIM_END_NAMESPACE
