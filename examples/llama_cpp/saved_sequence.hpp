// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// A sequence as llama_state_seq_get_data saves it (llama.cpp v0.5.0, src/llama-kv-cache.cpp,
// state_write), viewed where it lies: f32, f16, bf16 and ggml's blocks, V token-major or
// transposed, K and V each of its own type. No llama.cpp header is needed. Little-endian:
//
//   u32 0xaf143cd8, i32 sequence
//   per cache      u32 streams; per stream: u32 cells, and if there are any
//     per cell     i32 position, u32 1, i32 sequence
//     once         u32 transposed, u32 layers
//     K per layer  i32 type, u64 bytes of a row, a row per cell
//     V per layer  the same; transposed: i32 type, u32 bytes of an element, u32 width, then
//                  width times an element per cell
//
// A model with windowed layers saves two caches one after the other; both are read. Refused with a
// sentence: a sequence that is empty or lies in several streams, cells of several sequences or with
// more than a position (M-RoPE), caches without V (latent attention), types that are none of the
// above, and what follows the caches (recurrent layers of a hybrid model).

#include <kvslim/codec/ggml.hpp>
#include <kvslim/core/view.hpp>

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace example {

using kvslim::index_t;

struct saved_error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// One of ggml's types that a cache may have; `value` is ggml's number of it.
struct saved_type {
  std::int32_t value = 1;  // f16
  static constexpr std::int32_t f32 = 0, f16 = 1, bf16 = 30;

  /// Calls f with the ggml_block or a null pointer to the element type; false for other types.
  template <class F>
  bool visit(F const& f) const {
    using kvslim::ggml_block;
    switch (value) {
      case f32:
        return f(static_cast<float*>(nullptr)), true;
      case f16:
        return f(static_cast<kvslim::f16*>(nullptr)), true;
      case bf16:
        return f(static_cast<kvslim::bf16*>(nullptr)), true;
      case 2:
        return f(kvslim::ggml_rows<ggml_block::q4_0>{}), true;
      case 3:
        return f(kvslim::ggml_rows<ggml_block::q4_1>{}), true;
      case 6:
        return f(kvslim::ggml_rows<ggml_block::q5_0>{}), true;
      case 7:
        return f(kvslim::ggml_rows<ggml_block::q5_1>{}), true;
      case 8:
        return f(kvslim::ggml_rows<ggml_block::q8_0>{}), true;
      default:
        return false;
    }
  }
  [[nodiscard]] bool known() const {
    return visit([](auto) {});
  }
  [[nodiscard]] bool quantized() const {
    return known() && value != f32 && value != f16 && value != bf16;
  }
  /// Bytes of n channels; n a multiple of 32 if quantized.
  [[nodiscard]] std::size_t bytes(index_t n) const {
    std::size_t out = 0;
    visit([&]<class T>(T) {
      if constexpr (std::is_pointer_v<T>)
        out = static_cast<std::size_t>(n) * sizeof(std::remove_pointer_t<T>);
      else
        out = static_cast<std::size_t>(T::row_bytes(n));
    });
    return out;
  }
};

/// K or V of one layer: `channels` of every cell, all heads side by side.
struct saved_plane {
  saved_type type;
  index_t channels = 0;
  std::size_t offset = 0;   ///< of the first row, in the saved bytes
  bool transposed = false;  ///< channel after channel instead of cell after cell
};

/// One cache of a saved sequence.
struct saved_cache {
  std::uint32_t streams = 1, stream = 0;  ///< the sequence lies in one of them
  std::vector<std::int32_t> positions;    ///< of the cells, in any order
  std::vector<saved_plane> k, v;          ///< [layers]

  [[nodiscard]] index_t cells() const { return std::ssize(positions); }
  [[nodiscard]] index_t layers() const { return std::ssize(k); }
  /// Layers that differ cannot be seen as one view.
  [[nodiscard]] bool uniform() const {
    auto const same = [](std::vector<saved_plane> const& all) {
      return std::all_of(all.begin(), all.end(), [&](saved_plane const& p) {
        return p.type.value == all.front().type.value && p.channels == all.front().channels;
      });
    };
    return same(k) && same(v);
  }
};

struct saved_sequence {
  std::int32_t sequence = 0;
  std::vector<saved_cache> caches;  ///< one, or with windowed layers two
};

namespace detail {

inline constexpr std::uint32_t saved_magic = 0xaf143cd8u;

class saved_reader {
 public:
  explicit saved_reader(std::span<std::byte const> bytes) : bytes_(bytes) {}
  template <class T>
  T take() {
    T x;
    std::memcpy(&x, skip(sizeof x), sizeof x);
    return x;
  }
  std::byte const* skip(std::size_t n) {
    if (n > left()) throw saved_error("the saved sequence is truncated");
    at_ += n;
    return bytes_.data() + (at_ - n);
  }
  [[nodiscard]] std::size_t at() const { return at_; }
  [[nodiscard]] std::size_t left() const { return bytes_.size() - at_; }

 private:
  std::span<std::byte const> bytes_;
  std::size_t at_ = 0;
};

inline saved_type take_type(saved_reader& in) {
  saved_type const type{in.take<std::int32_t>()};
  if (!type.known())
    throw saved_error("the saved sequence has a cache of ggml's type " +
                      std::to_string(type.value) + ", which is not read here");
  return type;
}

/// `channels * cells` elements of a plane that begins here.
inline void take_rows(saved_reader& in, saved_plane& p, std::size_t row, std::size_t cells) {
  p.offset = in.at();
  if (row != 0 && cells > in.left() / row) throw saved_error("the saved sequence is truncated");
  in.skip(row * cells);
}

inline saved_plane take_major(saved_reader& in, std::size_t cells) {
  saved_plane p{take_type(in)};
  auto const row = in.take<std::uint64_t>();
  auto const unit = p.type.quantized() ? 32 : 1;
  auto const bytes = p.type.bytes(unit);
  if (row == 0 || row % bytes != 0 || row / bytes > (1u << 20))
    throw saved_error("the saved sequence has rows of no whole number of channels");
  p.channels = static_cast<index_t>(row / bytes) * unit;
  take_rows(in, p, row, cells);
  return p;
}

inline saved_plane take_transposed(saved_reader& in, std::size_t cells) {
  saved_plane p{take_type(in)};
  auto const element = in.take<std::uint32_t>(), width = in.take<std::uint32_t>();
  if (p.type.quantized() || element != p.type.bytes(1) || width == 0 || width > (1u << 20))
    throw saved_error("the saved sequence has a transposed V of no plain elements");
  p.channels = width;
  p.transposed = true;
  take_rows(in, p, std::size_t{element} * width, cells);
  return p;
}

inline saved_cache take_cache(saved_reader& in, std::int32_t sequence) {
  saved_cache c;
  c.streams = in.take<std::uint32_t>();
  if (c.streams == 0 || c.streams > 1024)
    throw saved_error(
        "what lies here is no attention cache: recurrent layers (a hybrid model), or damage");
  for (std::uint32_t s = 0; s < c.streams; ++s) {
    auto const cells = in.take<std::uint32_t>();
    if (cells == 0) continue;
    if (!c.positions.empty())
      throw saved_error("several streams hold cells: save one sequence, not the whole context");
    if (cells > in.left() / 12) throw saved_error("the saved sequence is truncated");
    c.stream = s;
    for (std::uint32_t i = 0; i < cells; ++i) {
      auto const position = in.take<std::int32_t>();
      auto const owners = in.take<std::uint32_t>();
      auto const owner = in.take<std::int32_t>();
      if (owners == 0)
        throw saved_error(
            "a cell belongs to no sequence: recurrent layers, cells of more than a position "
            "(M-RoPE), or damage");
      if (owners != 1)
        throw saved_error("a cell belongs to " + std::to_string(owners) +
                          " sequences: save one sequence, not the whole context");
      if (owner != sequence || position < 0)
        throw saved_error("cells carry more than a position (M-RoPE, n-gram models), or damage");
      c.positions.push_back(position);
    }
    auto const transposed = in.take<std::uint32_t>(), layers = in.take<std::uint32_t>();
    if (transposed > 1 || layers == 0 || layers > 4096)
      throw saved_error("cells carry more than a position (M-RoPE, n-gram models), or damage");
    for (std::uint32_t l = 0; l < layers; ++l) c.k.push_back(take_major(in, cells));
    for (std::uint32_t l = 0; l < layers; ++l) {
      if (in.left() == 0)
        throw saved_error("the cache holds no V (latent attention), or ends early");
      c.v.push_back(transposed != 0 ? take_transposed(in, cells) : take_major(in, cells));
    }
  }
  if (c.positions.empty()) throw saved_error("the saved sequence holds no cells");
  return c;
}

template <class T>
void put(std::vector<std::byte>& out, T const& x) {
  auto const* const bytes = reinterpret_cast<std::byte const*>(&x);
  out.insert(out.end(), bytes, bytes + sizeof x);
}

}  // namespace detail

/// Reads the frame of a saved sequence; rows stay where they are. Throws saved_error.
inline saved_sequence read_saved(std::span<std::byte const> bytes) {
  detail::saved_reader in(bytes);
  if (in.take<std::uint32_t>() != detail::saved_magic)
    throw saved_error("this is no saved sequence of llama.cpp");
  saved_sequence out{in.take<std::int32_t>(), {}};
  while (in.left() != 0) {
    if (out.caches.size() == 2)
      throw saved_error("what follows the caches is unknown: recurrent layers, or damage");
    out.caches.push_back(detail::take_cache(in, out.sequence));
  }
  if (out.caches.empty()) throw saved_error("the saved sequence holds no cells");
  return out;
}

/// The inverse: a frame for caches of these positions and planes, whose offsets are set, with rows
/// of zeros to be filled.
inline std::vector<std::byte> write_frame(saved_sequence& s) {
  using detail::put;
  std::vector<std::byte> out;
  put(out, detail::saved_magic);
  put(out, s.sequence);
  for (auto& c : s.caches) {
    put(out, c.streams);
    for (std::uint32_t stream = 0; stream < c.streams; ++stream) {
      put(out, stream == c.stream ? static_cast<std::uint32_t>(c.cells()) : 0u);
      if (stream != c.stream) continue;
      for (auto const position : c.positions) {
        put(out, position);
        put(out, std::uint32_t{1});
        put(out, s.sequence);
      }
      put(out, std::uint32_t{c.v.front().transposed});
      put(out, static_cast<std::uint32_t>(c.layers()));
      for (auto* planes : {&c.k, &c.v})
        for (auto& p : *planes) {
          put(out, p.type.value);
          if (p.transposed) {
            put(out, static_cast<std::uint32_t>(p.type.bytes(1)));
            put(out, static_cast<std::uint32_t>(p.channels));
          } else {
            put(out, std::uint64_t{p.type.bytes(p.channels)});
          }
          p.offset = out.size();
          out.resize(out.size() + p.type.bytes(p.channels) * static_cast<std::size_t>(c.cells()));
        }
    }
  }
  return out;
}

/// How K and V of a cache divide into heads; the saved bytes do not say.
struct saved_heads {
  index_t kv_heads = 1;
};

/// One head of a cell's K or V as floats.
class saved_channels {
 public:
  saved_channels(std::byte const* bytes, saved_plane const& p, index_t cells, index_t cell,
                 index_t first, index_t size)
      : rows_(bytes + p.offset),
        plane_(&p),
        cells_(cells),
        cell_(cell),
        first_(first),
        size_(size) {}

  struct iterator {
    saved_channels const* row;
    index_t d;
    float operator*() const { return (*row)[d]; }
    iterator& operator++() { return ++d, *this; }
    bool operator!=(iterator const& other) const { return d != other.d; }
  };
  [[nodiscard]] iterator begin() const { return {this, 0}; }
  [[nodiscard]] iterator end() const { return {this, size_}; }
  [[nodiscard]] index_t size() const { return size_; }
  [[nodiscard]] float operator[](index_t d) const {
    float x = 0.0f;
    plane_->type.visit([&]<class T>(T const& type) {
      if constexpr (std::is_pointer_v<T>)
        x = kvslim::to_float(*at(type, d));
      else
        x = type.decode(row(type), {}, d);
    });
    return x;
  }
  void load(float* out) const {
    plane_->type.visit([&]<class T>(T const& type) {
      if constexpr (std::is_pointer_v<T>)
        kvslim::detail::load_channels(at(type, 0), plane_->transposed ? cells_ : 1, size_, out);
      else
        for (index_t d = 0; d < size_; d += 32)
          kvslim::detail::load_ggml<T::block_type>(row(type) + T::row_bytes(d), out + d);
    });
  }

 private:
  /// Rows are aligned to 2 at least; f32 is read through floats only if the reader's buffer and
  /// frame happen to align it, which check_view sees to.
  template <class T>
  [[nodiscard]] T const* at(T*, index_t d) const {
    auto const* const all = static_cast<T const*>(static_cast<void const*>(rows_));
    return all + (plane_->transposed ? (first_ + d) * cells_ + cell_
                                     : cell_ * plane_->channels + first_ + d);
  }
  template <class T>
  [[nodiscard]] std::byte const* row(T const&) const {
    return rows_ + cell_ * T::row_bytes(plane_->channels) + T::row_bytes(first_);
  }

  std::byte const* rows_;
  saved_plane const* plane_;
  index_t cells_, cell_, first_, size_;
};

/// A cache of a saved sequence as kvslim reads one: layers are sequences, cells are in text order
/// and their positions consecutive (the container keeps the real ones). Refers to its arguments.
class saved_view {
 public:
  using space = kvslim::host_space;

  /// Throws saved_error where the cache cannot be seen so.
  saved_view(std::span<std::byte const> bytes, saved_cache const& c, saved_heads heads)
      : bytes_(bytes.data()), cache_(&c), order_(static_cast<std::size_t>(c.cells())) {
    if (!c.uniform()) throw saved_error("layers of this cache differ in type or width");
    index_t const h = heads.kv_heads, k = c.k.front().channels, v = c.v.front().channels;
    if (h < 1 || k % h != 0 || v % h != 0)
      throw saved_error("the model's KV heads do not divide the saved rows");
    extent_ = {c.layers(), h, c.cells(), k / h, v / h};
    for (auto const* planes : {&c.k, &c.v})
      for (auto const& p : *planes) {
        auto const to = reinterpret_cast<std::uintptr_t>(bytes_ + p.offset);
        bool const f32 = p.type.value == saved_type::f32;
        if (to % (f32 ? 4 : 2) != 0) throw saved_error("the saved rows are misaligned");
        if (p.type.quantized() && p.channels / h % 32 != 0)
          throw saved_error("heads of ggml's blocks have multiples of 32 channels");
      }
    std::iota(order_.begin(), order_.end(), 0);
    std::sort(order_.begin(), order_.end(), [&](auto a, auto b) {
      return c.positions[static_cast<std::size_t>(a)] < c.positions[static_cast<std::size_t>(b)];
    });
  }

  [[nodiscard]] kvslim::extents const& extents() const { return extent_; }
  [[nodiscard]] index_t length(index_t, index_t) const { return extent_.tokens; }
  [[nodiscard]] std::int32_t position(index_t, index_t, index_t i) const {
    return static_cast<std::int32_t>(i);
  }
  [[nodiscard]] kvslim::token_state state(index_t, index_t, index_t) const {
    return kvslim::token_state::held;
  }
  [[nodiscard]] float logit_bias(index_t, index_t, index_t) const { return 0.0f; }
  [[nodiscard]] saved_channels key(index_t layer, index_t h, index_t i) const {
    return row(cache_->k, layer, i, h, extent_.head_dim);
  }
  [[nodiscard]] saved_channels value(index_t layer, index_t h, index_t i) const {
    return row(cache_->v, layer, i, h, extent_.value_width());
  }
  [[nodiscard]] bool orders_per_head() const { return false; }
  [[nodiscard]] bool in_text_order() const { return true; }
  /// The position that the engine knows a token by.
  [[nodiscard]] std::int32_t real_position(index_t i) const {
    return cache_->positions[static_cast<std::size_t>(order_[static_cast<std::size_t>(i)])];
  }

 private:
  [[nodiscard]] saved_channels row(std::vector<saved_plane> const& planes, index_t layer, index_t i,
                                   index_t h, index_t width) const {
    return {bytes_,         planes[static_cast<std::size_t>(layer)],
            extent_.tokens, order_[static_cast<std::size_t>(i)],
            h * width,      width};
  }

  std::byte const* bytes_;
  saved_cache const* cache_;
  std::vector<index_t> order_;
  kvslim::extents extent_;
};

/// Writes one head of a cell's K or V into a frame.
inline void store_saved(std::span<std::byte> bytes, saved_plane const& p, index_t cells,
                        index_t cell, index_t first, std::span<float const> x) {
  std::byte* const rows = bytes.data() + p.offset;
  auto const size = std::ssize(x);
  p.type.visit([&]<class T>(T const& type) {
    if constexpr (std::is_pointer_v<T>) {
      using element = std::remove_pointer_t<T>;
      for (index_t d = 0; d < size; ++d) {
        auto const to = p.transposed ? (first + d) * cells + cell : cell * p.channels + first + d;
        auto const y = kvslim::from_float<element>(x[static_cast<std::size_t>(d)]);
        std::memcpy(rows + static_cast<std::size_t>(to) * sizeof y, &y, sizeof y);
      }
    } else {
      type.encode(x.data(), {.n = 1, .dim = size},
                  rows + cell * T::row_bytes(p.channels) + T::row_bytes(first));
    }
  });
}

}  // namespace example
