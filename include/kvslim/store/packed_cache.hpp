// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/slice.hpp>
#include <kvslim/store/packed_half.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Tables that codecs read and caches do not carry (bases, codebooks), bound under the layout's
/// fingerprint. Memory of the cache's space.
struct codec_tables {
  void const* key = nullptr;
  void const* value = nullptr;
};

/// A stored cache in memory that the caller owns. Typed by its two codecs, whatever pipeline filled
/// it. The storage holds no pointers: it may be copied, moved or saved byte for byte.
///
/// Everything that reads the storage (row, bytes, tokens, ...) exists for host memory only; a
/// device cache is read by kernels.
template <key_codec Key, value_codec Value, class Space = host_space>
class packed_cache {
 public:
  using layout_type = packed_layout<Key, Value>;
  using key_codec_type = Key;
  using value_codec_type = Value;
  using space = Space;
  static constexpr bool on_host = std::same_as<Space, host_space>;

  /// Binds memory aligned to alignment_bytes; more is faster. `space` is cuda_space{} for device
  /// memory. Sizes are checked by what fills it: encode() or deserialize().
  constexpr packed_cache(layout_type const& layout, std::byte* storage, std::size_t bytes,
                         Space = {}) noexcept
      : layout_(layout), storage_(storage), size_(bytes) {}
  template <class Buffer>
  requires requires(Buffer& b) {
    { b.data() } -> std::convertible_to<std::byte*>;
    b.size();
  }
  constexpr packed_cache(layout_type const& layout, Buffer& buffer) noexcept
      : packed_cache(layout, buffer.data(), buffer.size()) {}
  /// A plan says its layout: `packed_cache packed(plan, storage)`.
  template <class Plan, class Buffer>
  requires std::same_as<decltype(std::declval<Plan const&>().layout()), layout_type>
  constexpr packed_cache(Plan const& plan, Buffer& buffer) noexcept
      : packed_cache(plan.layout(), buffer) {}
  template <class Plan>
  requires std::same_as<decltype(std::declval<Plan const&>().layout()), layout_type>
  constexpr packed_cache(Plan const& plan, std::byte* storage, std::size_t bytes,
                         Space = {}) noexcept
      : packed_cache(plan.layout(), storage, bytes) {}

  [[nodiscard]] KVSLIM_HD constexpr layout_type const& layout() const noexcept { return layout_; }
  [[nodiscard]] KVSLIM_HD constexpr kvslim::extents const& extents() const noexcept {
    return layout_.extent;
  }
  [[nodiscard]] KVSLIM_HD constexpr std::byte* storage() const noexcept { return storage_; }
  [[nodiscard]] KVSLIM_HD constexpr std::size_t size() const noexcept { return size_; }
  constexpr void bind(codec_tables const& tables) noexcept { tables_ = tables; }
  /// Whether every codec that reads a table was bound to one; one that only fit() reads is not
  /// asked for once the cache was filled.
  [[nodiscard]] constexpr bool has_tables(bool filling = true) const noexcept {
    constexpr auto reads = [](codec_traits const& x, bool fits) {
      return x.tabled || (fits && x.tabled_fit);
    };
    return (!reads(Key::traits, filling) || tables_.key != nullptr) &&
           (!reads(Value::traits, filling) || tables_.value != nullptr);
  }

  /// True once filled under this layout: the header says so, word by word.
  [[nodiscard]] bool ready() const noexcept requires on_host {
    if (storage_ == nullptr || !detail::is_aligned(storage_) || size_ < sizeof(packed_header) ||
        !layout_.check())
      return false;
    packed_header const& h = raw_header();
    packed_header expected = layout_.header();
    expected.used_bytes = h.used_bytes;
    expected.checksum = h.checksum;
    return same(expected, h) && h.used_bytes >= layout_.table_bytes() &&
           static_cast<std::size_t>(h.used_bytes) <= size_;
  }
  /// Bytes held from the start of the storage: header, row table, codes, scales, exact slots,
  /// sides, reserved room and padding. Storage beyond it is free. 0 before the cache was filled.
  [[nodiscard]] std::size_t bytes() const noexcept requires on_host {
    return ready() ? static_cast<std::size_t>(raw_header().used_bytes) : 0;
  }
  /// Bytes that hold tokens now: as bytes(), without what is reserved for appending.
  [[nodiscard]] std::size_t live_bytes() const noexcept requires on_host {
    if (!ready()) return 0;
    index_t sum = layout_.table_bytes();
    for (index_t r = 0; r < layout_.extent.rows(); ++r)
      sum += layout_.parts(raw_row(r).slots, r).bytes;
    return static_cast<std::size_t>(sum);
  }
  /// Tokens held by one row.
  [[nodiscard]] index_t tokens(index_t sequence, index_t kv_head) const noexcept requires on_host {
    return raw_row(index(sequence, kv_head)).tokens();
  }
  /// Slots of one row: its tokens and the holes between them.
  [[nodiscard]] index_t slots(index_t sequence, index_t kv_head) const noexcept requires on_host {
    return raw_row(index(sequence, kv_head)).slots;
  }
  /// Position that the next appended token has: what its query and key must be rotated by.
  [[nodiscard]] std::int32_t next_position(index_t sequence,
                                           index_t kv_head = 0) const noexcept requires on_host {
    return raw_row(index(sequence, kv_head)).next_position;
  }
  /// Logical position of a slot; empty_slot (-1) for a hole. Where positions are not stored, rows
  /// have no gaps and end at next_position().
  [[nodiscard]] std::int32_t position(index_t sequence, index_t kv_head,
                                      index_t slot) const noexcept requires on_host {
    return positions(index(sequence, kv_head))[slot];
  }
  /// One channel of a slot, decoded. For tests and tools; attention never calls it.
  [[nodiscard]] float key(index_t r, index_t slot, index_t d) const noexcept requires on_host {
    KVSLIM_ASSERT(slot >= 0 && slot < raw_row(r).slots && d >= 0 && d < layout_.extent.head_dim);
    return keys(r).decode(slot, d);
  }
  [[nodiscard]] float value(index_t r, index_t slot, index_t d) const noexcept requires on_host {
    KVSLIM_ASSERT(slot >= 0 && slot < raw_row(r).slots && d >= 0 &&
                  d < layout_.extent.value_width());
    return values(r).decode(slot, d);
  }
  [[nodiscard]] float logit_bias(index_t r, index_t slot) const noexcept requires on_host {
    float const* const all = biases(r);
    return all == nullptr ? 0.0f : all[slot];
  }

  /// Whether a slot's token was pinned by the view that it was stored from: it is no victim.
  [[nodiscard]] bool pinned(index_t sequence, index_t kv_head,
                            index_t slot) const noexcept requires on_host {
    std::uint8_t const* const all = pins(index(sequence, kv_head));
    return all != nullptr && all[slot] != 0;
  }

  // For the verbs of run/, on either backend: where the parts of row r lie.
  [[nodiscard]] KVSLIM_HD packed_header& raw_header() const noexcept {
    return *static_cast<packed_header*>(static_cast<void*>(storage_));
  }
  [[nodiscard]] KVSLIM_HD packed_row& raw_row(index_t r) const noexcept {
    return static_cast<packed_row*>(static_cast<void*>(storage_ + sizeof(packed_header)))[r];
  }
  [[nodiscard]] KVSLIM_HD detail::packed_half<Key, typename layout_type::key_tail_codec> keys(
      index_t r) const noexcept {
    packed_row const& x = raw_row(r);
    auto const mine = layout_.parts(x.capacity, r);
    auto const first = leader(layout_.key, r, mine);
    std::byte* const start = storage_ + raw_row(first.row).offset;
    auto const z = layout_.key_sizes(x.capacity);
    typename layout_type::key_tail_codec const tail{};
    return {layout_.key,
            tail,
            z,
            tail.sizes(layout_.extent.head_dim, x.capacity),
            start + first.parts.key_state,
            start + first.parts.key_blocks,
            storage_ + x.offset + mine.key_tail,
            x.key_coded,
            x.key_head,
            layout_.ring(z, x.capacity),
            layout_.extent.head_dim,
            r,
            detail::group_of(layout_.key).member(layout_.extent, r),
            positions(r),
            tables_.key};
  }
  [[nodiscard]] KVSLIM_HD detail::packed_half<Value, typename layout_type::value_tail_codec> values(
      index_t r) const noexcept {
    packed_row const& x = raw_row(r);
    auto const mine = layout_.parts(x.capacity, r);
    auto const first = leader(layout_.value, r, mine);
    std::byte* const start = storage_ + raw_row(first.row).offset;
    auto const z = layout_.value_sizes(x.capacity);
    auto const tail = detail::value_tail<Value>::of(layout_.value);
    constexpr bool shared = layout_type::shares_keys;
    return {layout_.value,
            tail,
            z,
            tail.sizes(layout_.extent.value_width(), x.capacity),
            start + (shared ? first.parts.key_state : first.parts.value_state),
            start + (shared ? first.parts.key_blocks : first.parts.value_blocks),
            storage_ + x.offset + (shared ? mine.key_tail : mine.value_tail),
            x.value_coded,
            x.value_head,
            layout_.ring(z, x.capacity),
            layout_.extent.value_width(),
            r,
            detail::group_of(layout_.value).member(layout_.extent, r),
            positions(r),
            tables_.value};
  }
  /// Memory of one side of a row; null if the layout has none of that kind.
  [[nodiscard]] KVSLIM_HD std::byte* side_of(index_t r, side_kind kind) const noexcept {
    int const i = layout_.find(kind);
    if (i < 0) return nullptr;
    packed_row const& x = raw_row(r);
    return storage_ + x.offset + x.sides + layout_.side_offset(i, x.capacity);
  }
  [[nodiscard]] KVSLIM_HD std::int32_t* stored_positions(index_t r) const noexcept {
    return static_cast<std::int32_t*>(static_cast<void*>(side_of(r, side_kind::position)));
  }
  [[nodiscard]] KVSLIM_HD float* biases(index_t r) const noexcept {
    return static_cast<float*>(static_cast<void*>(side_of(r, side_kind::bias)));
  }
  [[nodiscard]] KVSLIM_HD std::uint8_t* pins(index_t r) const noexcept {
    return static_cast<std::uint8_t*>(static_cast<void*>(side_of(r, side_kind::pin)));
  }
  [[nodiscard]] KVSLIM_HD std::byte* columns(index_t r) const noexcept {
    return side_of(r, side_kind::column);
  }
  [[nodiscard]] KVSLIM_HD std::uint32_t* row_words(index_t r) const noexcept {
    return static_cast<std::uint32_t*>(static_cast<void*>(side_of(r, side_kind::row_words)));
  }
  [[nodiscard]] KVSLIM_HD run_positions positions(index_t r) const noexcept {
    packed_row const& x = raw_row(r);
    if (std::int32_t const* const list = stored_positions(r); list != nullptr) return {list, 0};
    return {nullptr, x.next_position - x.slots};
  }

 private:
  struct leading {
    index_t row;
    detail::row_parts parts;
  };
  template <class Codec>
  [[nodiscard]] KVSLIM_HD leading leader(Codec const& codec, index_t r,
                                         detail::row_parts const& mine) const noexcept {
    if constexpr (Codec::traits.grouped) {
      index_t const first = detail::group_of(codec).first_row(layout_.extent, r);
      if (first != r) return {first, layout_.parts(raw_row(first).capacity, first)};
    }
    return {r, mine};
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t index(index_t sequence,
                                                  index_t kv_head) const noexcept {
    return sequence * layout_.extent.kv_heads + kv_head;
  }
  [[nodiscard]] static bool same(packed_header const& a, packed_header const& b) noexcept {
    return __builtin_memcmp(&a, &b, sizeof a) == 0;
  }

  layout_type layout_;
  std::byte* storage_;
  std::size_t size_;
  codec_tables tables_ = {};
};

template <class Layout, class Buffer>
packed_cache(Layout const&, Buffer&)
    -> packed_cache<typename Layout::key_codec_type, typename Layout::value_codec_type>;
template <class Layout>
packed_cache(Layout const&, std::byte*, std::size_t)
    -> packed_cache<typename Layout::key_codec_type, typename Layout::value_codec_type>;
template <class Layout, class Space>
packed_cache(Layout const&, std::byte*, std::size_t, Space)
    -> packed_cache<typename Layout::key_codec_type, typename Layout::value_codec_type, Space>;

namespace detail {

/// A stored cache as cells of a text, so that policies score, select and encode from it as from any
/// view. Cells are slots; holes are padding.
template <class Packed>
struct packed_cells {
  using space = typename Packed::space;

  Packed packed;
  kvslim::extents extent;  // tokens: the longest row

  template <class Half>
  struct decoded {
    Half half;
    index_t slot;
    struct iterator {
      decoded const* row;
      index_t d;
      KVSLIM_HD float operator*() const noexcept { return (*row)[d]; }
      KVSLIM_HD iterator& operator++() noexcept {
        ++d;
        return *this;
      }
      KVSLIM_HD bool operator!=(iterator const& other) const noexcept { return d != other.d; }
    };
    [[nodiscard]] KVSLIM_HD iterator begin() const noexcept { return {this, 0}; }
    [[nodiscard]] KVSLIM_HD iterator end() const noexcept { return {this, half.dim}; }
    [[nodiscard]] KVSLIM_HD index_t size() const noexcept { return half.dim; }
    [[nodiscard]] KVSLIM_HD float operator[](index_t d) const noexcept {
      return half.decode(slot, d);
    }
    KVSLIM_HD void load(float* out) const noexcept { half.load(slot, out); }
  };

  [[nodiscard]] KVSLIM_HD constexpr kvslim::extents const& extents() const noexcept {
    return extent;
  }
  [[nodiscard]] KVSLIM_HD index_t row(index_t s, index_t h) const noexcept {
    return s * extent.kv_heads + h;
  }
  [[nodiscard]] KVSLIM_HD index_t length(index_t s, index_t h) const noexcept {
    return detail::min(packed.raw_row(row(s, h)).slots, extent.tokens);
  }
  [[nodiscard]] KVSLIM_HD std::int32_t position(index_t s, index_t h, index_t cell) const noexcept {
    return packed.positions(row(s, h))[cell];
  }
  [[nodiscard]] KVSLIM_HD token_state state(index_t s, index_t h, index_t cell) const noexcept {
    if (position(s, h, cell) == empty_slot) return token_state::padding;
    std::uint8_t const* const pins = packed.pins(row(s, h));
    return pins != nullptr && pins[cell] != 0 ? token_state::pinned : token_state::held;
  }
  [[nodiscard]] KVSLIM_HD float logit_bias(index_t s, index_t h, index_t cell) const noexcept {
    float const* const all = packed.biases(row(s, h));
    return all == nullptr ? 0.0f : all[cell];
  }
  [[nodiscard]] KVSLIM_HD auto key(index_t s, index_t h, index_t cell) const noexcept {
    auto const half = packed.keys(row(s, h));
    return decoded<std::remove_const_t<decltype(half)>>{half, cell};
  }
  [[nodiscard]] KVSLIM_HD auto value(index_t s, index_t h, index_t cell) const noexcept {
    auto const half = packed.values(row(s, h));
    return decoded<std::remove_const_t<decltype(half)>>{half, cell};
  }
  [[nodiscard]] KVSLIM_HD constexpr bool orders_per_head() const noexcept { return true; }
  [[nodiscard]] KVSLIM_HD constexpr bool in_text_order() const noexcept {
    return packed.layout().find(side_kind::position) < 0;
  }
};

/// What a merger has stored with row r under its id.
template <class Packed>
[[nodiscard]] KVSLIM_HD inline std::uint32_t const* words_of(packed_cells<Packed> const& cells,
                                                             std::uint32_t id, index_t bytes,
                                                             index_t r) noexcept {
  auto const& layout = cells.packed.layout();
  int const i = layout.find(side_kind::row_words);
  bool const mine = i >= 0 && layout.sides[i].meaning == id && layout.sides[i].bytes == bytes;
  return mine ? cells.packed.row_words(r) : nullptr;
}

}  // namespace detail

namespace detail {

template <class Packed>
[[nodiscard]] constexpr status check_tables(Packed const& packed, bool filling = false) noexcept {
  if (packed.has_tables(filling)) return {};
  return fail(errc::invalid_pointer,
              "kvslim: a codec reads a table that the cache was not bound to: call bind()");
}

}  // namespace detail

KVSLIM_END_NAMESPACE
