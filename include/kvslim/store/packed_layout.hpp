// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/dense.hpp>
#include <kvslim/codec/slice_of_key.hpp>
#include <kvslim/store/header.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// Where the parts of one row lie, as offsets from the row's start.
struct row_parts {
  index_t key_state, key_blocks, key_tail, value_state, value_blocks, value_tail;
  index_t sides[most_sides];
  index_t bytes;
};

/// Every part of a row starts at a multiple of this.
inline constexpr index_t part_alignment = 64;

template <class Codec>
using key_tail_of = dense_key<typename Codec::tail_type>;
template <class Codec>
struct value_tail {
  using type = dense_value<typename Codec::tail_type>;
  [[nodiscard]] KVSLIM_HD static constexpr type of(Codec const&) noexcept { return {}; }
};
template <class Key>
struct value_tail<slice_of_key<Key>> {
  using type = slice_of_key<key_tail_of<Key>>;
  [[nodiscard]] KVSLIM_HD static constexpr type of(slice_of_key<Key> const& c) noexcept {
    return {{}, c.key_dim};
  }
};

}  // namespace detail

/// Everything that says how bytes are laid out, and nothing that says how they came about: two
/// layouts that compare equal read each other's caches. Pure arithmetic, in bytes.
///
/// Requires: check() ok before any size is asked for; sizes of a layout that fails it are 0.
template <key_codec Key, value_codec Value>
struct packed_layout {
  static_assert(detail::check_codec<Key>::value && detail::check_codec<Value>::value);
  static_assert(!(Value::traits.shares_keys && detail::in_own_basis<Key>),
                "kvslim: slice_of_key reads keys by channels, not those in a basis of their own");
  using key_codec_type = Key;
  using value_codec_type = Value;
  using key_tail_codec = detail::key_tail_of<Key>;
  using value_tail_codec = typename detail::value_tail<Value>::type;
  static constexpr bool shares_keys = Value::traits.shares_keys;

  Key key = {};
  Value value = {};
  kvslim::extents extent = {};  ///< tokens is not part of the stored form
  logit_rule logit = {};
  side sides[most_sides] = {};
  index_t draft_tokens = 1;  ///< tokens that may wait in the tail besides those kept exact
  std::uint64_t fingerprint = 0;

  /// Slots that give their place to newer tokens are filled in place: both codecs rewrite single
  /// tokens and settle alike.
  static constexpr bool can_refill = Key::traits.rewrites && Value::traits.rewrites;

  [[nodiscard]] constexpr status check() const noexcept {
    if (auto const s = detail::check_extents(extent); !s) return s;
    if (draft_tokens < 0 || draft_tokens > extents::most_tokens)
      return detail::fail(errc::invalid_option, "kvslim: draft_tokens must be in [0, 2^30]");
    if (!(logit.scale >= 0.0f && logit.scale <= 3.0e38f && logit.soft_cap >= 0.0f &&
          logit.soft_cap <= 3.0e38f))
      return detail::fail(errc::invalid_option,
                          "kvslim: logit scale and soft cap must be finite and not negative");
    if (auto const s = key.check(extent.head_dim); !s) return s;
    if (auto const s = value.check(extent.value_width()); !s) return s;
    if (!detail::group_of(key).divides(extent) || !detail::group_of(value).divides(extent))
      return detail::fail(errc::invalid_shape,
                          "kvslim: the codec's row group must divide the view's sequences and "
                          "kv_heads");
    if constexpr (shares_keys)
      if (!(value.key.written() == key.written()) || value.key_dim != extent.head_dim)
        return detail::fail(errc::invalid_option,
                            "kvslim: slice_of_key must name the codec and width of K");
    if (!spans(key_sizes(0), Key::traits) || !spans(value_sizes(0), Value::traits))
      return detail::fail(errc::invalid_option,
                          "kvslim: a codec in a basis of its own needs own_dim of 1 to 1048576");
    if (!whole(key_sizes(0), Key::traits) || !whole(value_sizes(0), Value::traits))
      return detail::fail(errc::invalid_option,
                          "kvslim: the codec writes whole blocks, yet codes a part of one");
    for (side const& x : sides)
      if (x.kind != side_kind::none && (x.unit < 0 || x.bytes <= 0 || x.bytes > (1 << 20) ||
                                        (x.bytes % 4 != 0 && x.kind != side_kind::pin) ||
                                        x.kind > side_kind::pin || !x.is_read_as_meant()))
        return detail::fail(errc::invalid_option,
                            "kvslim: a side's unit or bytes are out of range");
    return {};
  }

  [[nodiscard]] KVSLIM_HD constexpr codec_sizes key_sizes(index_t tokens) const noexcept {
    return key.sizes(extent.head_dim, tokens);
  }
  [[nodiscard]] KVSLIM_HD constexpr codec_sizes value_sizes(index_t tokens) const noexcept {
    return value.sizes(extent.value_width(), tokens);
  }
  /// Width of prepared queries, and of sums that wait to be finished; 0: channels alone.
  [[nodiscard]] KVSLIM_HD constexpr index_t key_own_dim() const noexcept {
    if constexpr (!detail::in_own_basis<Key>) return 0;
    return key_sizes(0).own_dim;
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t value_own_dim() const noexcept {
    if constexpr (!detail::in_own_basis<Value>) return 0;
    return value_sizes(0).own_dim;
  }
  /// Slots of the exact ring: what stays exact, what waits for its block, and drafts.
  [[nodiscard]] KVSLIM_HD constexpr index_t ring(codec_sizes const& z,
                                                 index_t capacity) const noexcept {
    return detail::min(capacity, z.tail() + draft_tokens);
  }
  /// True if a hole may take the next token that leaves the ring.
  [[nodiscard]] KVSLIM_HD constexpr bool refills() const noexcept {
    if constexpr (!can_refill) return false;
    auto const k = key_sizes(0), v = value_sizes(0);
    return k.keep_exact == v.keep_exact && k.settle_by == 1 && v.settle_by == 1 &&
           find(side_kind::position) >= 0 && !grouped();
  }
  /// True if a codec's blocks are shared by several rows.
  [[nodiscard]] KVSLIM_HD constexpr bool grouped() const noexcept {
    return detail::group_of(key).size() > 1 || detail::group_of(value).size() > 1;
  }
  /// True if evict() may take tokens out.
  [[nodiscard]] KVSLIM_HD constexpr bool lets_go() const noexcept {
    return find(side_kind::position) >= 0 && find(side_kind::page) < 0 && !grouped();
  }
  /// Index of the first side of that kind; -1: none.
  [[nodiscard]] KVSLIM_HD constexpr int find(side_kind kind) const noexcept {
    for (int i = 0; i < static_cast<int>(most_sides); ++i)
      if (sides[i].kind == kind) return i;
    return -1;
  }
  /// Adds a side behind the others; false if there is no room.
  constexpr bool add(side const& x) noexcept {
    int const at = find(side_kind::none);
    if (at < 0) return false;
    sides[at] = x;
    return true;
  }

  /// Parts of row `row` if it has `capacity` slots.
  [[nodiscard]] KVSLIM_HD constexpr detail::row_parts parts(index_t capacity,
                                                            index_t row) const noexcept {
    detail::row_parts at{};
    index_t used = 0;
    auto const take = [&](index_t bytes) {
      index_t const begin = used;
      used += detail::round_up(bytes, detail::part_alignment);
      return begin;
    };
    auto const k = key_sizes(capacity), v = value_sizes(capacity);
    bool const key_leads = detail::group_of(key).member(extent, row) == 0;
    bool const value_leads = detail::group_of(value).member(extent, row) == 0;
    at.key_state = take(key_leads ? k.state_bytes : 0);
    at.key_blocks = take(key_leads ? block_bytes(k, capacity) : 0);
    at.key_tail = take(ring_bytes<key_tail_codec>(k, extent.head_dim, capacity));
    at.value_state = take(value_leads && !shares_keys ? v.state_bytes : 0);
    at.value_blocks = take(value_leads && !shares_keys ? block_bytes(v, capacity) : 0);
    at.value_tail =
        take(shares_keys ? 0 : ring_bytes<value_tail_codec>(v, extent.value_width(), capacity));
    for (index_t i = 0; i < most_sides; ++i) at.sides[i] = take(sides[i].size(capacity));
    at.bytes = used;
    return at;
  }
  /// Bytes from the start of a row's sides to side i.
  [[nodiscard]] KVSLIM_HD constexpr index_t side_offset(int i, index_t capacity) const noexcept {
    index_t at = 0;
    for (int j = 0; j < i; ++j)
      at += detail::round_up(sides[j].size(capacity), detail::part_alignment);
    return at;
  }
  /// Bytes of header and row table at the start of the storage.
  [[nodiscard]] KVSLIM_HD constexpr index_t table_bytes() const noexcept {
    return header_size + detail::round_up(extent.rows() * row_size, detail::part_alignment);
  }
  /// Storage that suffices for any split of `total` slots over all rows, none above `longest`.
  [[nodiscard]] constexpr std::size_t bytes_at_most(index_t total, index_t longest) const noexcept {
    index_t const rows = extent.rows();
    if (!check() || total < 0 || longest < 0 || longest > extents::most_cells / rows) return 0;
    index_t even = 0;  // every row as long as the longest
    if (grouped())
      for (index_t r = 0; r < rows; ++r) even += parts(longest, r).bytes;
    else
      even = rows * parts(longest, 0).bytes;
    if (grouped() || total >= rows * longest) return static_cast<std::size_t>(table_bytes() + even);
    // Blocks and sides grow with slots, plus at most one begun block or unit each; the rest is as
    // for the longest row.
    auto const k = key_sizes(longest), v = value_sizes(longest);
    auto const fixed = parts(longest, 0);
    index_t const constant =
        (fixed.key_blocks - fixed.key_state) + (fixed.value_state - fixed.key_tail) +
        (fixed.value_blocks - fixed.value_state) + (fixed.sides[0] - fixed.value_tail);
    auto const growing = [&](index_t unit, index_t bytes) {
      return detail::div_up(total, unit) * bytes + rows * (bytes + detail::part_alignment);
    };
    index_t bound = rows * constant + growing(k.block_tokens, k.block_bytes) +
                    (shares_keys ? 0 : growing(v.block_tokens, v.block_bytes));
    for (side const& x : sides)
      if (x.kind != side_kind::none)
        bound += x.unit == 0 ? rows * detail::round_up(x.bytes, detail::part_alignment)
                             : growing(x.unit, x.bytes);
    return static_cast<std::size_t>(table_bytes() + detail::min(bound, even));
  }
  /// Floats of the rows that one encode call may need: a block of every member, or several where a
  /// codec takes them at once; either side.
  [[nodiscard]] KVSLIM_HD constexpr index_t block_floats() const noexcept {
    constexpr bool key_runs = Key::traits.encodes_runs, value_runs = Value::traits.encodes_runs;
    auto const tokens = [](codec_sizes const& z, bool runs) {
      return runs ? detail::max(z.block_tokens, run_tokens) : z.block_tokens;
    };
    return detail::max(
        detail::group_of(key).size() * tokens(key_sizes(0), key_runs) * extent.head_dim,
        detail::group_of(value).size() * tokens(value_sizes(0), value_runs) * extent.value_width());
  }

  /// What is written in front of every cache of this layout.
  [[nodiscard]] constexpr packed_header header() const noexcept {
    packed_header h{};
    h.magic = packed_magic;
    h.version = packed_version;
    h.header_bytes = static_cast<std::uint32_t>(header_size);
    h.row_bytes = static_cast<std::uint32_t>(row_size);
    h.sequences = extent.sequences;
    h.kv_heads = extent.kv_heads;
    h.head_dim = extent.head_dim;
    h.value_dim = extent.value_width();
    h.draft_tokens = draft_tokens;
    h.key = key.written();
    h.value = value.written();
    for (index_t i = 0; i < most_sides; ++i) h.sides[i] = sides[i];
    h.logit = logit;
    h.fingerprint = fingerprint;
    return h;
  }
  /// The layout that a header describes, if these codecs can read it: foreign otherwise.
  [[nodiscard]] static constexpr status read(packed_header const& h, packed_layout& out) noexcept {
    if (h.magic != packed_magic)
      return detail::fail(errc::foreign, "kvslim: this is not a kvslim cache");
    if (h.version != packed_version || h.header_bytes != header_size || h.row_bytes != row_size)
      return detail::fail(errc::foreign, "kvslim: the cache has another format version");
    packed_layout mine{};
    if (auto const s = Key::read(h.key, mine.key); !s) return s;
    if (auto const s = Value::read(h.value, mine.value); !s) return s;
    mine.extent = {h.sequences, h.kv_heads, 0, h.head_dim, h.value_dim};
    mine.logit = h.logit;
    for (index_t i = 0; i < most_sides; ++i) mine.sides[i] = h.sides[i];
    mine.draft_tokens = h.draft_tokens;
    mine.fingerprint = h.fingerprint;
    if (auto const s = mine.check(); !s)
      return detail::fail(errc::corrupt, "kvslim: the cache's header does not add up");
    out = mine;
    return {};
  }

 private:
  static constexpr index_t header_size = static_cast<index_t>(sizeof(packed_header));
  static constexpr index_t row_size = static_cast<index_t>(sizeof(packed_row));

  [[nodiscard]] static constexpr bool whole(codec_sizes const& z, codec_traits const& t) noexcept {
    return z.block_tokens > 0 && z.settle_by > 0 &&
           (!t.whole_blocks || (z.settle_by % z.block_tokens == 0));
  }
  [[nodiscard]] static constexpr bool spans(codec_sizes const& z, codec_traits const& t) noexcept {
    return t.space == basis::own ? z.own_dim > 0 && z.own_dim <= extents::most_channels
                                 : z.own_dim == 0;
  }
  [[nodiscard]] KVSLIM_HD static constexpr index_t block_bytes(codec_sizes const& z,
                                                               index_t capacity) noexcept {
    return detail::div_up(z.coded(capacity), z.block_tokens) * z.block_bytes;
  }
  template <class Tail>
  [[nodiscard]] KVSLIM_HD constexpr index_t ring_bytes(codec_sizes const& z, index_t dim,
                                                       index_t capacity) const noexcept {
    auto const tail = Tail{}.sizes(dim, capacity);
    return detail::div_up(ring(z, capacity), tail.block_tokens) * tail.block_bytes;
  }
};

KVSLIM_END_NAMESPACE
