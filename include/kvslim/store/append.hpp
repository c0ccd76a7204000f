// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/ops/rows.hpp>
#include <kvslim/store/compress.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// Moves settled tokens of a lane from its exact tail into blocks. `rows` holds one block of floats.
template <class Codec, class Tail>
KVSLIM_HD inline index_t flush_lane(Codec const& codec, Tail const& tail, std::byte* blocks, std::byte* tail_base, index_t coded,
                                    index_t count, index_t dim, float* rows) noexcept {
  index_t const target = max(coded, codec.coded(count));
  while (coded < target) {
    index_t const take = min(target - coded, codec.block_tokens() - coded % codec.block_tokens());
    for (index_t i = 0; i < take; ++i) {
      index_t const slot = (coded + i) % codec.tail_tokens();
      std::byte const* const from = tail_base + slot / tail.block_tokens() * tail.block_bytes(dim);
      for (index_t d = 0; d < dim; ++d) rows[i * dim + d] = tail.decode(from, slot % tail.block_tokens(), d, dim);
    }
    encode_blocks(codec, blocks, coded, take, dim, rows);
    coded += take;
  }
  return coded;
}

/// Adds one token to one row: codes what has settled, then stores the new token exactly (or codes it, without a tail).
template <class Packed>
KVSLIM_HD inline void append_row(Packed const& packed, index_t r, float const* k, float const* v, float* rows) noexcept {
  auto const& plan = packed.plan();
  auto const key = plan.key_codec();
  auto const value = plan.value_codec();
  dense_key<typename decltype(plan.key_codec())::tail_type> const key_tail;
  dense_value<typename decltype(plan.value_codec())::tail_type> const value_tail;
  auto& entry = packed.row(r);
  auto const at = plan.layout(entry.capacity);
  std::byte* const base = packed.storage() + entry.offset;
  index_t const dim = plan.extents().head_dim, t = entry.count;
  auto const lane = [&](auto const& codec, auto const& tail, index_t blocks, index_t tail_at, std::int32_t& coded, float const* row) {
    if (codec.tail_tokens() == 0) {
      encode_blocks(codec, base + blocks, t, 1, dim, row);
      coded = static_cast<std::int32_t>(t + 1);
    } else {
      coded = static_cast<std::int32_t>(flush_lane(codec, tail, base + blocks, base + tail_at, coded, t, dim, rows));
      store_tail(tail, base + tail_at, codec.tail_tokens(), t, dim, row);
    }
  };
  lane(key, key_tail, at.key_blocks, at.key_tail, entry.key_coded, k);
  lane(value, value_tail, at.value_blocks, at.value_tail, entry.value_coded, v);
  using plan_type = typename Packed::plan_type;
  if constexpr (plan_type::keeps_positions())
    reinterpret_cast<std::int32_t*>(base + at.positions)[t] = entry.next_position;
  if (plan.keeps_log_weight()) reinterpret_cast<float*>(base + at.log_weight)[t] = 0.0f;
  entry.count = static_cast<std::int32_t>(t + 1);
  entry.next_position += 1;
}

}  // namespace detail

/// Floats of scratch for append.
template <class Policy>
[[nodiscard]] constexpr index_t append_scratch_floats(compression_plan<Policy> const& plan) noexcept {
  index_t const block = detail::max(plan.key_codec().block_tokens(), plan.value_codec().block_tokens());
  return plan.extents().rows() * (block + 2) * plan.extents().head_dim;
}

/// Adds one token to every row, at next_position(). The new token is attended exactly by codecs that keep a tail.
///
/// Shapes: k and v [sequence, kv_head, 1, head_dim], rotated for next_position(); scratch append_scratch_floats(plan) floats.
/// Returns: invalid_pointer, invalid_shape, capacity_exceeded, non_finite; then no row was changed.
template <host_executor Exec, class Policy, class Rows>
status append(Exec const& exec, packed_cache<Policy, host_space> const& packed, Rows const& k, Rows const& v, float* scratch) {
  auto const e = packed.plan().extents();
  if (k.data == nullptr || v.data == nullptr || scratch == nullptr || packed.storage() == nullptr)
    return detail::fail(errc::invalid_pointer, "kvslim: append was given a null pointer");
  for (auto const* x : {&k, &v})
    if (x->sequences != e.sequences || x->heads != e.kv_heads || x->tokens != 1 || x->head_dim != e.head_dim)
      return detail::fail(errc::invalid_shape, "kvslim: append needs k and v as [sequences, kv_heads, 1, head_dim]");
  if (!packed.ready()) return detail::fail(errc::corrupt, "kvslim: the packed cache was never filled");
  auto const plan = packed.plan();
  float const key_limit = detail::largest_stored<decltype(plan.key_codec())>();
  float const value_limit = detail::largest_stored<decltype(plan.value_codec())>();
  for (index_t r = 0; r < e.rows(); ++r) {
    if (packed.row(r).count >= packed.row(r).capacity)
      return detail::fail(errc::capacity_exceeded, "kvslim: a row is full: plan with more append_tokens");
    index_t const s = r / e.kv_heads, h = r % e.kv_heads;
    if (!ops::within(k.row(s, h), k.layout.channel, e.head_dim, key_limit) ||
        !ops::within(v.row(s, h), v.layout.channel, e.head_dim, value_limit))
      return detail::fail(errc::non_finite, "kvslim: the new token holds NaN, infinity or a value beyond the storage type's range");
  }
  index_t const floats = append_scratch_floats(plan) / e.rows();
  exec.for_each(e.rows(), [=](index_t r) {
    float* const rows = scratch + r * floats;
    index_t const s = r / e.kv_heads, h = r % e.kv_heads;
    ops::load_row(k.row(s, h), k.layout.channel, e.head_dim, rows);
    ops::load_row(v.row(s, h), v.layout.channel, e.head_dim, rows + e.head_dim);
    detail::append_row(packed, r, rows, rows + e.head_dim, rows + 2 * e.head_dim);
  });
  return {};
}

/// Drops the newest `tokens` of every row (rejected drafts). Tokens still in an exact tail can always be dropped; coded ones only
/// where blocks are not written whole.
/// Returns: unsupported if a row would have to cut into a whole block, invalid_option if it holds fewer tokens; then nothing changed.
template <class Policy>
status rewind(packed_cache<Policy, host_space> const& packed, index_t tokens) {
  if (!packed.ready()) return detail::fail(errc::corrupt, "kvslim: the packed cache was never filled");
  auto const& plan = packed.plan();
  index_t const rows = plan.extents().rows();
  for (index_t r = 0; r < rows; ++r) {
    auto const& entry = packed.row(r);
    index_t const left = entry.count - tokens;
    if (tokens < 0 || left < 0) return detail::fail(errc::invalid_option, "kvslim: rewind asks for more tokens than a row holds");
    auto const cuts = [&](auto const& codec, index_t coded) { return left < coded && (codec.whole_blocks() || codec.tail_tokens() > 0); };
    if (cuts(plan.key_codec(), entry.key_coded) || cuts(plan.value_codec(), entry.value_coded))
      return detail::fail(errc::unsupported, "kvslim: rewind reaches behind the exact tail of a quantized lane");
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
