// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/ops/rows.hpp>
#include <kvslim/run/compress.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// Makes room for the next token of row r: codes what has settled, or the new token itself where a
/// lane has no tail. The first row of a group does it for all, so every row's new token must be
/// loaded before, and no row may be stored before all have settled. `scratch` holds `floats` per
/// row: the new K row, the new V row, then block_rows() rows.
template <class Packed>
KVSLIM_HD inline void settle_row(Packed const& packed, index_t r, float* scratch,
                                 index_t floats) noexcept {
  index_t const dim = packed.plan().extents().head_dim, count = packed.row(r).count;
  float* const rows = scratch + r * floats + 2 * dim;
  if constexpr (Packed::plan_type::keeps_positions())
    packed.stored_positions(r)[count] = packed.row(r).next_position;
  auto const settle = [&](auto const& lane, auto const& lane_of, index_t fresh) {
    if (lane.member != 0) return;
    bool const direct = lane.codec.tail_tokens() == 0;
    index_t const target = direct ? count + 1 : max(lane.coded, lane.codec.coded(count));
    for (index_t t = lane.coded; t < target;) {
      index_t const take = lane.in_block(t, target);
      for (index_t m = 0; m < lane.members(); ++m) {
        index_t const from = group_of(lane.codec).member_row(packed.plan().extents(), r, m);
        auto const mine = lane_of(from);
        for (index_t i = 0; i < take; ++i)
          for (index_t d = 0; d < dim; ++d)
            rows[(m * take + i) * dim + d] =
                direct ? scratch[from * floats + fresh + d] : mine.decode(t + i, d);
      }
      lane.encode(t, take, rows);
      t += take;
    }
  };
  settle(
      packed.keys(r), [&](index_t i) { return packed.keys(i); }, 0);
  settle(
      packed.values(r), [&](index_t i) { return packed.values(i); }, dim);
}

/// Stores the new token of a settled row.
template <class Packed>
KVSLIM_HD inline void store_row(Packed const& packed, index_t r, float const* k,
                                float const* v) noexcept {
  auto& entry = packed.row(r);
  index_t const t = entry.count;
  auto const store = [&](auto const& lane, std::int32_t& coded, float const* row) {
    bool const direct = lane.codec.tail_tokens() == 0;
    coded = static_cast<std::int32_t>(direct ? t + 1 : max(lane.coded, lane.codec.coded(t)));
    if (!direct) lane.store(t, row);
  };
  store(packed.keys(r), entry.key_coded, k);
  store(packed.values(r), entry.value_coded, v);
  if (packed.plan().keeps_log_weight()) packed.stored_weights(r)[t] = 0.0f;
  entry.count = static_cast<std::int32_t>(t + 1);
  entry.next_position += 1;
}

/// Floats of append's scratch that belong to one row.
template <class Plan>
[[nodiscard]] constexpr index_t append_row_floats(Plan const& plan) noexcept {
  return (plan.block_rows() + 2) * plan.extents().head_dim;
}

}  // namespace detail

/// Floats of scratch for append.
template <class Policy>
[[nodiscard]] constexpr std::size_t append_scratch_floats(
    compression_plan<Policy> const& plan) noexcept {
  return static_cast<std::size_t>(plan.extents().rows() * detail::append_row_floats(plan));
}

/// Adds one token to every row, at next_position(). The new token is attended exactly by codecs
/// that keep a tail.
///
/// Shapes: k and v [sequence, kv_head, 1, head_dim], rotated for next_position(); scratch
/// append_scratch_floats(plan) floats. Returns: invalid_pointer, invalid_shape, capacity_exceeded,
/// non_finite; then no row was changed.
template <host_executor Exec, class Policy, class Rows>
status append(Exec const& exec, packed_cache<Policy, host_space> const& packed, Rows const& k,
              Rows const& v, float* scratch) {
  auto const e = packed.plan().extents();
  if (k.data == nullptr || v.data == nullptr || scratch == nullptr || packed.storage() == nullptr)
    return detail::fail(errc::invalid_pointer, "kvslim: append was given a null pointer");
  for (auto const* x : {&k, &v})
    if (x->sequences != e.sequences || x->heads != e.kv_heads || x->tokens != 1 ||
        x->head_dim != e.head_dim)
      return detail::fail(errc::invalid_shape,
                          "kvslim: append needs k and v as [sequences, kv_heads, 1, head_dim]");
  if (!packed.ready())
    return detail::fail(errc::corrupt, "kvslim: the packed cache was never filled");
  auto const plan = packed.plan();
  float const key_limit = detail::largest_stored(plan.key_codec());
  float const value_limit = detail::largest_stored(plan.value_codec());
  for (index_t r = 0; r < e.rows(); ++r) {
    if (packed.row(r).count >= packed.row(r).capacity)
      return detail::fail(errc::capacity_exceeded,
                          "kvslim: a row is full: plan with more append_tokens");
    index_t const s = r / e.kv_heads, h = r % e.kv_heads;
    if (!ops::within(k.row(s, h), k.layout.channel, e.head_dim, key_limit) ||
        !ops::within(v.row(s, h), v.layout.channel, e.head_dim, value_limit))
      return detail::fail(
          errc::non_finite,
          "kvslim: the new token holds NaN, infinity or a value beyond the storage type's range");
  }
  index_t const floats = detail::append_row_floats(plan);
  auto const load = [=](index_t r) {
    index_t const s = r / e.kv_heads, h = r % e.kv_heads;
    ops::load_row(k.row(s, h), k.layout.channel, e.head_dim, scratch + r * floats);
    ops::load_row(v.row(s, h), v.layout.channel, e.head_dim, scratch + r * floats + e.head_dim);
  };
  auto const settle = [=](index_t r) { detail::settle_row(packed, r, scratch, floats); };
  auto const store = [=](index_t r) {
    detail::store_row(packed, r, scratch + r * floats, scratch + r * floats + e.head_dim);
  };
  if (plan.grouped()) {
    exec.for_each(e.rows(), load);
    exec.for_each(e.rows(), settle);
    exec.for_each(e.rows(), store);
  } else {
    exec.for_each(e.rows(), [=](index_t r) { load(r), settle(r), store(r); });
  }
  return {};
}

/// Drops the newest `tokens` of every row (rejected drafts). Tokens still in an exact tail can
/// always be dropped; coded ones only where blocks are not written whole. Returns: unsupported if a
/// row would have to cut into a whole block, invalid_option if it holds fewer tokens; then nothing
/// changed.
template <class Policy>
status rewind(packed_cache<Policy, host_space> const& packed, index_t tokens) {
  if (!packed.ready())
    return detail::fail(errc::corrupt, "kvslim: the packed cache was never filled");
  auto const& plan = packed.plan();
  index_t const rows = plan.extents().rows();
  for (index_t r = 0; r < rows; ++r) {
    auto const& entry = packed.row(r);
    index_t const left = entry.count - tokens;
    if (tokens < 0 || left < 0)
      return detail::fail(errc::invalid_option,
                          "kvslim: rewind asks for more tokens than a row holds");
    auto const cuts = [&](auto const& codec, index_t coded) {
      return left < coded && (codec.whole_blocks() || codec.tail_tokens() > 0);
    };
    if (cuts(plan.key_codec(), entry.key_coded) || cuts(plan.value_codec(), entry.value_coded))
      return detail::fail(errc::unsupported,
                          "kvslim: rewind reaches behind the exact tail of a quantized lane");
  }
  for (index_t r = 0; r < rows; ++r) {
    auto& entry = packed.row(r);
    entry.count -= static_cast<std::int32_t>(tokens);
    entry.key_coded = entry.key_coded < entry.count ? entry.key_coded : entry.count;
    entry.value_coded = entry.value_coded < entry.count ? entry.value_coded : entry.count;
    entry.next_position -= static_cast<std::int32_t>(tokens);
  }
  return {};
}

KVSLIM_END_NAMESPACE
