// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/ops/finite.hpp>
#include <kvslim/run/encode_checks.hpp>
#include <kvslim/run/select.hpp>
#include <kvslim/run/source_rows.hpp>
#include <kvslim/store/packed_cache.hpp>

#include <cstring>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// Reads entry i of row r's keep list (merged or not, moved or not) as float rows; k or v may be
/// null without a merger. Returns its logit bias. `scratch` holds three rows.
template <class Plan, class Cells>
KVSLIM_HD inline float read_kept(Plan const& plan, Cells const& cells, keep_set const& keep,
                                 index_t r, index_t i, std::int32_t moved_to, float* k, float* v,
                                 float* scratch) {
  auto const& e = plan.extents();
  index_t const s = r / e.kv_heads, h = r % e.kv_heads, at = keep.begins[r] + i;
  index_t const cell = keep.cells[at];
  float bias = cells.logit_bias(s, h, cell);
  if constexpr (Plan::has_merger) {
    text<Cells> const ordered{cells, keep.order};
    auto const key = [&](index_t rank, float* out) { ordered.key(s, h, rank).load(out); };
    auto const value = [&](index_t rank, float* out) { ordered.value(s, h, rank).load(out); };
    auto const biases = [&](index_t rank) { return ordered.logit_bias(s, h, rank); };
    auto const& merger = plan.template stage<merger_tag>();
    merge_width const width{e.head_dim, e.value_width()};
    if constexpr (Plan::assigns)
      bias =
          ops::fold_sources(merger, keep, r, i, e.tokens, width, key, value, biases, k, v, scratch);
    else
      bias = ops::fold_run(merger, keep.merged + r * e.tokens, index_t{keep.ranks[at]},
                           ordered.tokens(s, h), width, key, value, biases, k, v, scratch);
  } else {
    if (k != nullptr) cells.key(s, h, cell).load(k);
    if (v != nullptr) cells.value(s, h, cell).load(v);
  }
  if constexpr (Plan::has_mover)
    if (k != nullptr)
      plan.template stage<position_tag>().move(k, e.head_dim, cells.position(s, h, cell), moved_to);
  return bias;
}

/// Most tokens that a head of row r's sequence keeps: where moved positions end in all of them, so
/// that one query position serves all heads.
template <class Plan>
[[nodiscard]] KVSLIM_HD inline index_t longest_head(Plan const& plan, keep_set const& keep,
                                                    index_t r) noexcept {
  index_t const heads = plan.extents().kv_heads, first = r - r % heads;
  index_t longest = 0;
  for (index_t h = 0; h < heads; ++h) longest = max(longest, keep.count(first + h));
  return longest;
}

/// The row table's entry of row r, but for its offset. `next`: of the view, if nothing is moved.
template <class Plan, class Layout>
[[nodiscard]] KVSLIM_HD inline packed_row make_row(Plan const& plan, Layout const& layout,
                                                   keep_set const& keep, index_t r, index_t count,
                                                   std::int32_t next) noexcept {
  index_t const capacity = plan.room_for(count);
  packed_row x{};
  x.capacity = static_cast<std::int32_t>(capacity);
  x.sides = layout.parts(capacity, r).sides[0];
  x.slots = static_cast<std::int32_t>(count);
  x.key_coded = static_cast<std::int32_t>(layout.key_sizes(capacity).coded(count));
  x.value_coded = static_cast<std::int32_t>(layout.value_sizes(capacity).coded(count));
  x.next_position = Plan::has_mover ? static_cast<std::int32_t>(longest_head(plan, keep, r)) : next;
  x.observed = x.next_position;
  return x;
}

/// Sides of one row: positions, pins, biases and columns of every step-th slot from `first` on, and
/// every step-th word of the row.
/// Biases of merged rows are written when the rows are.
template <class Plan, class Cells, class Packed>
KVSLIM_HD inline void encode_sides(Plan const& plan, Cells const& cells, keep_set const& keep,
                                   Packed const& packed, index_t r, index_t first = 0,
                                   index_t step = 1) {
  auto const& e = plan.extents();
  index_t const s = r / e.kv_heads, h = r % e.kv_heads, count = packed.raw_row(r).slots;
  std::int32_t const* const kept = keep.cells + keep.begins[r];
  if (std::int32_t* const positions = packed.stored_positions(r); positions != nullptr)
    for (index_t i = first; i < count; i += step)
      positions[i] = Plan::has_mover
                         ? packed.raw_row(r).next_position - static_cast<std::int32_t>(count - i)
                         : cells.position(s, h, kept[i]);
  if (std::uint8_t* const pins = packed.pins(r); pins != nullptr)
    for (index_t i = first; i < count; i += step)
      pins[i] = cells.state(s, h, kept[i]) == token_state::pinned ? 1 : 0;
  if (float* const biases = packed.biases(r); biases != nullptr && !Plan::has_merger)
    for (index_t i = first; i < count; i += step) biases[i] = cells.logit_bias(s, h, kept[i]);
  if constexpr (Plan::memory_id != 0) {
    std::uint32_t* const words = packed.row_words(r);
    index_t const each = plan.row_bytes() / 4;
    if (words != nullptr && keep.fold.memory != nullptr)
      for (index_t i = first; i < each; i += step)
        std::memcpy(words + i, keep.fold.memory + (r * each + i) * 4, 4);
  }
  if constexpr (Plan::observes) {
    using column = column_of<typename Plan::scorer_type>;
    auto* const columns = static_cast<column*>(static_cast<void*>(packed.columns(r)));
    if (columns == nullptr) return;
    auto const* const mine = static_cast<column const*>(static_cast<void const*>(keep.columns));
    for (index_t i = first; i < count; i += step) {
      std::int32_t const at = cells.position(s, h, kept[i]);
      columns[i] = mine != nullptr
                       ? mine[keep.begins[r] + i]
                       : plan.template stage<scorer_tag>().born(place{r, at, at, i + 1});
    }
  }
}

/// K's or V's half of a row.
template <bool Keys, class Packed>
[[nodiscard]] KVSLIM_HD inline auto half_of(Packed const& packed, index_t r) noexcept {
  if constexpr (Keys)
    return packed.keys(r);
  else
    return packed.values(r);
}

/// Checks values where nobody has: of entries [i, i + n) of row r's list. Tells encode_half to end.
struct check_nothing {
  KVSLIM_HD constexpr bool operator()(index_t, index_t, index_t) const noexcept { return true; }
};

/// Encodes K or V of one row from its keep list. `rows` is the row's staging. Everything but blocks
/// was zeroed. The first row of a group writes the group's blocks. Ends where good(r, i, n), called
/// before entries [i, i + n) of row r are read, is false.
template <bool Keys, class Plan, class Cells, class Packed, class Check = check_nothing>
KVSLIM_HD inline void encode_half(Plan const& plan, Cells const& cells, keep_set const& keep,
                                  float* rows, Packed const& packed, index_t r,
                                  Check const& good = {}) {
  packed_row const entry = packed.raw_row(r);
  index_t const count = entry.slots, wide = plan.wide();
  float* const other = rows + packed.layout().block_floats();
  auto const at = half_of<Keys>(packed, r);
  row_group const group = group_of(at.codec);
  index_t const first = group.first_row(plan.extents(), r);
  auto const read = [&](index_t member, index_t i, float* mine) {
    index_t const from = group.member_row(plan.extents(), first, member);
    float* const rest = Plan::has_merger ? other : nullptr;
    auto const to = entry.next_position - static_cast<std::int32_t>(count - i);
    float const bias = read_kept(plan, cells, keep, from, i, to, Keys ? mine : rest,
                                 Keys ? rest : mine, other + wide);
    if (Plan::has_merger && Keys)
      if (float* const biases = packed.biases(from); biases != nullptr) biases[i] = bias;
  };
  if (at.member == 0) {
    using codec = typename std::remove_cvref_t<decltype(at)>::codec_type;
    if constexpr (codec::traits.fitted) {
      site whole = at.whole();
      whole.held = count;
      auto const read_fast = [&](index_t member, index_t i, float* mine) {
        index_t const from = group.member_row(plan.extents(), first, member);
        if (!read_run<Keys>(plan, cells, keep, from, i, 1, mine)) read(member, i, mine);
      };
      at.codec.fit(read_fast, at.coded, whole, at.state, other + 4 * wide);
    }
    for (index_t i = 0; i < at.coded;) {
      index_t const take = at.together(i, at.coded);
      auto const ahead = next_run<Keys>(cells, keep, r, i + take, at.coded);
      for (index_t m = 0; m < at.members(); ++m)
        if (!good(group.member_row(plan.extents(), first, m), i, take)) return;
      if (i + take < at.coded)
        fetch_to_write(at.block(i + take),
                       div_up(take, at.sizes.block_tokens) * at.sizes.block_bytes);
      if (encode_run<Keys>(plan, cells, keep, at, i, take, ahead)) {
        i += take;
        continue;
      }
      std::memset(
          at.block(i), 0,
          static_cast<std::size_t>(div_up(take, at.sizes.block_tokens) * at.sizes.block_bytes));
      for (index_t m = 0; m < at.members(); ++m) {
        float* const mine = rows + m * take * at.dim;
        if (read_run<Keys>(plan, cells, keep, group.member_row(plan.extents(), first, m), i, take,
                           mine))
          continue;
        for (index_t j = 0; j < take; ++j) read(m, i + j, mine + j * at.dim);
      }
      at.encode(i, take, rows, ahead);
      i += take;
    }
  }
  index_t const room = max(1, packed.layout().block_floats() / wide);
  for (index_t i = at.coded; i < count;) {
    index_t const take = min(at.beside(i, count), room);
    if (!good(r, i, take)) return;
    if (!read_run<Keys>(plan, cells, keep, r, i, take, rows))
      for (index_t j = 0; j < take; ++j) read(at.member, i + j, rows + j * at.dim);
    at.store(i, rows, take);
    i += take;
  }
}

/// Zeroes row r but for the blocks that encode_half fills, which it zeroes as it goes.
template <class Packed>
inline void clear_row(Packed const& packed, index_t r) noexcept {
  auto const& entry = packed.raw_row(r);
  auto const parts = packed.layout().parts(entry.capacity, r);
  std::byte* const row = packed.storage() + entry.offset;
  index_t done = 0;
  auto const keep = [&](index_t blocks, auto const& half) {
    if (half.member != 0) return;
    std::memset(row + done, 0, static_cast<std::size_t>(blocks - done));
    done = blocks + div_up(half.coded, half.sizes.block_tokens) * half.sizes.block_bytes;
  };
  keep(parts.key_blocks, packed.keys(r));
  if constexpr (!Packed::layout_type::shares_keys) keep(parts.value_blocks, packed.values(r));
  std::memset(row + done, 0, static_cast<std::size_t>(parts.bytes - done));
}

/// Largest magnitude that a channel of K, or of V, may have.
template <bool Keys, class Plan>
[[nodiscard]] float limit_of(Plan const& plan) noexcept {
  auto const layout = plan.layout();
  // Rotation can move all of a pair's length into one channel.
  if constexpr (Keys)
    return layout.key.limit() * (Plan::has_mover ? 0.70710677f : 1.0f);
  else
    return layout.value.limit();
}

/// Checks K's, or V's, values where nobody has.
template <bool Keys, class Cells>
struct check_values {
  Cells const& cells;
  keep_set const& keep;
  float limit;
  bool asked;
  bool* good;

  KVSLIM_HD bool operator()(index_t r, index_t i, index_t n) const noexcept {
    return *good = !asked || list_within<Keys>(cells, keep, r, i, n, limit);
  }
};

/// Encodes one row: sides, K and V. Where nobody has looked at values (`checks`), each run is
/// looked at right before it is read again, from the first cache. False, and the row is half done,
/// if a value is not finite or beyond what codecs hold.
template <class Plan, class Cells, class Packed>
[[nodiscard]] bool encode_row(Plan const& plan, Cells const& cells, keep_set const& keep,
                              float* rows, Packed const& packed, index_t r, bool checks) {
  bool good = true;
  encode_sides(plan, cells, keep, packed, r);
  check_values<true, Cells> const keys{cells, keep, limit_of<true>(plan), checks, &good};
  check_values<false, Cells> const values{cells, keep, limit_of<false>(plan), checks, &good};
  encode_half<true>(plan, cells, keep, rows, packed, r, keys);
  if (!good) return false;
  if constexpr (Packed::layout_type::shares_keys)
    static_cast<void>(values(r, 0, keep.count(r)));
  else
    encode_half<false>(plan, cells, keep, rows, packed, r, values);
  return good;
}

/// What both backends check before encode writes anything.
template <class Plan, class Cells, class Packed>
[[nodiscard]] status check_encode(Plan const& plan, Cells const& cells, keep_set const& keep,
                                  Packed const& packed) {
  if (auto const s = plan.check(); !s) return s;
  if (!(cells.extents() == plan.extents()))
    return fail(errc::invalid_shape, "kvslim: the cache's extents are not those of the plan");
  auto const mine = plan.layout().header(), bound = packed.layout().header();
  if (__builtin_memcmp(&mine, &bound, sizeof mine) != 0)
    return fail(errc::invalid_option, "kvslim: the packed cache was bound under another layout");
  if (packed.storage() == nullptr || !is_aligned(packed.storage()))
    return fail(errc::invalid_pointer,
                "kvslim: the packed storage is null or not aligned to 16 bytes");
  if (auto const s = check_tables(packed, true); !s) return s;
  if (keep.begins == nullptr || keep.cells == nullptr)
    return fail(errc::invalid_pointer, "kvslim: the keep set is null");
  if (Plan::has_merger && (keep.merged == nullptr || keep.ranks == nullptr ||
                           (Plan::assigns && keep.fold.begins == nullptr)))
    return fail(errc::unsupported, "kvslim: a merger needs the keep set that select() made");
  if constexpr (requires { cells.bias.given(); }) {
    if (cells.bias.given() && plan.layout().find(side_kind::bias) < 0)
      return fail(errc::unsupported,
                  "kvslim: the view has logit biases: plan with .biases = true to store them");
  }
  return {};
}

/// True if everything that row r will store is finite and within what its codecs can hold.
template <class Plan, class Cells>
[[nodiscard]] bool row_fits(Plan const& plan, Cells const& cells, keep_set const& keep,
                            float* staging, index_t r) {
  auto const& e = plan.extents();
  float const key_limit = limit_of<true>(plan), value_limit = limit_of<false>(plan);
  if constexpr (Plan::has_merger) {
    // Members first: what is not kept is read too.
    index_t const s = r / e.kv_heads, h = r % e.kv_heads;
    for (index_t cell = 0; cell < cells.length(s, h); ++cell)
      if (cells.state(s, h, cell) != token_state::padding &&
          !(ops::row_within(cells.key(s, h, cell), key_limit) &&
            ops::row_within(cells.value(s, h, cell), value_limit)))
        return false;
    if (!plan.template stage<merger_tag>().grows()) return true;
    float* const k = staging + r * plan.staging_floats();
    float* const v = k + plan.wide();
    for (index_t i = 0; i < keep.count(r); ++i) {
      static_cast<void>(read_kept(plan, cells, keep, r, i, 0, k, v, v + plan.wide()));
      if (!ops::within(k, 1, e.head_dim, key_limit) ||
          !ops::within(v, 1, e.value_width(), value_limit))
        return false;
    }
    return true;
  } else {
    return list_within<true>(cells, keep, r, 0, keep.count(r), key_limit) &&
           list_within<false>(cells, keep, r, 0, keep.count(r), value_limit);
  }
}

/// Whether values can be checked while they are encoded: nothing else reads them before.
template <class Plan, class Packed>
inline constexpr bool encodes_in_one_pass =
    !Plan::has_merger && !Packed::key_codec_type::traits.fitted &&
    !Packed::value_codec_type::traits.fitted;

/// The steps of encode on the CPU.
template <class Exec, class Plan, class Cells, class Packed>
[[nodiscard]] status run_encode(Exec const& exec, Plan const& plan, Cells const& cells,
                                keep_set const& keep, Packed const& packed, encode_space const& w) {
  index_t const rows = plan.extents().rows();
  auto const layout = plan.layout();
  bool const along = encodes_in_one_pass<Plan, Packed> && plan.options().one_pass;
  auto const finite = [&] {
    for (index_t r = 0; r < rows; ++r)
      if (w.good[r] == 0)
        return fail(
            errc::non_finite,
            "kvslim: K or V holds NaN, infinity or a value beyond the storage type's range");
    return status{};
  };
  // check
  if (keep.begins[0] != 0) return fail(errc::invalid_shape, "kvslim: the keep set begins at 0");
  for (index_t r = 0; r < rows; ++r)
    if (char const* const fault = fault_of_list(plan, cells, keep, r); fault != nullptr)
      return fail(errc::invalid_shape, fault);
  for (index_t r = 0; r < rows && layout.grouped(); ++r)
    if (!keeps_as_leader(plan, keep, r, layout.key) ||
        !keeps_as_leader(plan, keep, r, layout.value))
      return fail(errc::unsupported, "kvslim: rows that share blocks must keep the same tokens");
  exec.for_each(rows, [=](index_t i) {
    index_t const r = rows - 1 - i;  // so that caches still hold the rows that are encoded first
    w.good[r] = along || row_fits(plan, cells, keep, w.staging, r) ? 1 : 0;
  });
  if (auto const s = finite(); !s) return s;
  // place
  index_t used = layout.table_bytes();
  for (index_t r = 0; r < rows; ++r) used += layout.parts(plan.room_for(keep.count(r)), r).bytes;
  if (packed.size() < static_cast<std::size_t>(used))
    return fail(errc::buffer_too_small, "kvslim: the packed storage is below plan.packed_bytes()");
  exec.for_each(1, [=](index_t) {
    std::memset(packed.storage(), 0, static_cast<std::size_t>(layout.table_bytes()));
    packed_header header = layout.header();
    header.used_bytes = used;
    packed.raw_header() = header;
    index_t at = layout.table_bytes();
    for (index_t r = 0; r < rows; ++r) {
      auto const& e = plan.extents();
      packed_row entry = make_row(plan, layout, keep, r, keep.count(r),
                                  next_position_of(cells, r / e.kv_heads, r % e.kv_heads));
      entry.offset = at;
      packed.raw_row(r) = entry;
      at += layout.parts(entry.capacity, r).bytes;
    }
  });
  // encode
  exec.for_each(rows, [=](index_t r) { clear_row(packed, r); });
  exec.for_each(rows, [=](index_t r) {
    float* const staging = w.staging + r * plan.staging_floats();
    w.good[r] = encode_row(plan, cells, keep, staging, packed, r, along) ? 1 : 0;
  });
  auto const s = finite();
  if (!s)
    exec.for_each(1, [=](index_t) {
      std::memset(packed.storage(), 0, static_cast<std::size_t>(layout.table_bytes()));
    });
  return s;
}

}  // namespace detail

/// Stores what a keep set names: merge, reposition, encode. The set may be select()'s or the
/// engine's own (cells of every row, in text order).
///
/// Shapes: cache as planned; packed bound under plan.layout(), with room for what stays; scratch of
/// plan.encode_bytes(). Memory must not overlap.
/// Returns: invalid_shape, invalid_option, invalid_pointer, buffer_too_small, non_finite,
/// unsupported; then nothing of `packed` was written. Cost: one checking pass over what stays, one
/// read of it and one write of its codes. With plan_options::one_pass values are checked while they
/// are encoded, which saves that pass's read of memory: non_finite then leaves storage that was
/// never filled, whatever it held. Where tokens are merged or codecs are fitted that changes
/// nothing.
template <host_executor Exec, class Plan, class Cache, class Packed>
status encode(Exec const& exec, Plan const& plan, Cache const& cache, keep_set const& keep,
              Packed const& packed, workspace scratch) {
  static_assert(std::same_as<typename Cache::space, host_space>,
                "kvslim: a CPU executor was given a device view: pass kvslim::cuda{stream} or a "
                "host view");
  if (auto const s = detail::check_encode(plan, cache, keep, packed); !s) return s;
  if constexpr (requires { cache.lengths; })
    if (auto const s = detail::check_cache(cache); !s) return s;
  if (auto const s = detail::check_workspace(scratch, plan.encode_bytes()); !s) return s;
  detail::carver carve(scratch.data);
  return detail::run_encode(exec, plan, cache, keep, packed, plan.carve_encode(carve));
}

/// Runs the pipeline: select and encode in one workspace of plan.workspace_bytes().
///
/// Returns: as select() and encode(); then nothing of `packed` was written, but with one_pass.
template <host_executor Exec, class Plan, class Cache, class Evidence, class Packed>
status compress(Exec const& exec, Plan const& plan, Cache const& cache, Evidence const& evidence,
                Packed const& packed, workspace scratch) {
  static_assert(std::same_as<typename Cache::space, host_space>,
                "kvslim: a CPU executor was given a device view: pass kvslim::cuda{stream} or a "
                "host view");
  if (auto const s = plan.check(); !s) return s;
  if (auto const s = detail::check_workspace(scratch, plan.workspace_bytes()); !s) return s;
  auto keep = plan.keep(scratch);
  workspace const rest{scratch.data + plan.keep_bytes(), scratch.bytes - plan.keep_bytes()};
  if (auto const s = detail::check_encode(plan, cache, keep, packed); !s) return s;
  if (packed.size() < plan.packed_bytes())
    return detail::fail(errc::buffer_too_small,
                        "kvslim: the packed storage is below plan.packed_bytes()");
  if (auto const s = select(exec, plan, cache, evidence, keep, rest); !s) return s;
  return encode(exec, plan, cache, keep, packed, rest);
}

KVSLIM_END_NAMESPACE
