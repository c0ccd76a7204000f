// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// A llama.cpp cache of quantized type, scored and selected from where it lies. Views hold elements;
// here a plane's rows are ggml's blocks, decoded while they are read.

#include <kvslim/codec/ggml.hpp>
#include <kvslim/core/view.hpp>

KVSLIM_BEGIN_NAMESPACE

/// The channels of one row of ggml's blocks as floats. Iterating decodes a block at a time.
template <ggml_block Type>
class ggml_range {
 public:
  struct sentinel {};
  class iterator {
   public:
    KVSLIM_HD iterator(std::byte const* row, index_t size) noexcept : next_(row), left_(size) {
      fill();
    }
    [[nodiscard]] KVSLIM_HD float operator*() const noexcept { return x_[at_]; }
    KVSLIM_HD iterator& operator++() noexcept {
      --left_;
      if (++at_ == detail::ggml_channels) fill();
      return *this;
    }
    [[nodiscard]] KVSLIM_HD bool operator!=(sentinel) const noexcept { return left_ > 0; }

   private:
    KVSLIM_HD void fill() noexcept {
      at_ = 0;
      if (left_ <= 0) return;
      detail::load_ggml<Type>(next_, x_);
      next_ += detail::ggml_format<Type>::bytes;
    }
    std::byte const* next_;
    index_t left_, at_ = 0;
    detail::local<float, detail::ggml_channels> x_;
  };

  KVSLIM_HD constexpr ggml_range(std::byte const* row, index_t size) noexcept
      : row_(row), size_(size) {}
  [[nodiscard]] KVSLIM_HD iterator begin() const noexcept { return {row_, size_}; }
  [[nodiscard]] KVSLIM_HD sentinel end() const noexcept { return {}; }
  [[nodiscard]] KVSLIM_HD constexpr index_t size() const noexcept { return size_; }
  [[nodiscard]] KVSLIM_HD float operator[](index_t d) const noexcept {
    return detail::ggml_value<Type>(block(d), d % detail::ggml_channels);
  }
  KVSLIM_HD void load(float* out) const noexcept {
    for (index_t d = 0; d < size_; d += detail::ggml_channels)
      detail::load_ggml<Type>(block(d), out + d);
  }

 private:
  [[nodiscard]] KVSLIM_HD std::byte const* block(index_t d) const noexcept {
    return row_ + d / detail::ggml_channels * detail::ggml_format<Type>::bytes;
  }
  std::byte const* row_;
  index_t size_;
};

/// Strides between rows of blocks, in bytes.
struct ggml_strides {
  index_t sequence = 0, kv_head = 0, token = 0;
  bool of_values = false;   ///< the plane is V's
  bool transposed = false;  ///< refused: blocks run along channels

  [[nodiscard]] KVSLIM_HD constexpr index_t offset(index_t s, index_t h, index_t t) const noexcept {
    return s * sequence + h * kv_head + t * token;
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t channel_stride() const noexcept { return 1; }
  [[nodiscard]] constexpr status check(extents const& e, index_t) const noexcept {
    if ((of_values ? e.value_width() : e.head_dim) % detail::ggml_channels != 0)
      return detail::fail(errc::invalid_shape,
                          "kvslim: ggml's blocks need head_dim to be a multiple of 32");
    if (transposed)
      return detail::fail(errc::unsupported, "kvslim: a V of ggml's blocks is never transposed");
    if (sequence % 2 != 0 || kv_head % 2 != 0 || token % 2 != 0)
      return detail::fail(errc::invalid_option, "kvslim: strides of ggml's blocks must be even");
    return {};
  }
};

/// One of K or V as ggml's blocks: a pointer (aligned to 2) and a layout whose offsets are bytes.
template <ggml_block Type, cache_layout Layout = ggml_strides, class Space = host_space>
struct ggml_plane {
  using layout_type = Layout;
  using space = Space;

  std::byte const* data = nullptr;
  Layout layout = {};

  [[nodiscard]] KVSLIM_HD constexpr std::byte const* row(index_t s, index_t h,
                                                         index_t t) const noexcept {
    return data + layout.offset(s, h, t);
  }
};

namespace detail {

template <class T, class Layout, class Space>
[[nodiscard]] KVSLIM_HD constexpr auto channels_of(plane<T, Layout, Space> const& p, index_t s,
                                                   index_t h, index_t t, index_t n) noexcept {
  return channel_range<std::remove_const_t<T>>(p.row(s, h, t), p.layout.channel_stride(), n);
}
template <ggml_block Type, class Layout, class Space>
[[nodiscard]] KVSLIM_HD constexpr auto channels_of(ggml_plane<Type, Layout, Space> const& p,
                                                   index_t s, index_t h, index_t t,
                                                   index_t n) noexcept {
  return ggml_range<Type>(p.row(s, h, t), n);
}

}  // namespace detail

/// A cache_view either half of which may be ggml's blocks. What reads tokens by key() and value()
/// takes it: scorers, select, encode and compress on the CPU; what moves elements (ops::compact)
/// does not.
template <class Key, class Value = Key>
struct ggml_cache_view : cache_view<Key, Value> {
  [[nodiscard]] KVSLIM_HD constexpr auto key(index_t s, index_t h, index_t cell) const noexcept {
    return detail::channels_of(this->k, s, h, cell, this->extent.head_dim);
  }
  [[nodiscard]] KVSLIM_HD constexpr auto value(index_t s, index_t h, index_t cell) const noexcept {
    return detail::channels_of(this->v, s, h, cell, this->extent.value_width());
  }
};

namespace adapt {

struct llama_cpp_quantized_cache {
  void const* k = nullptr;      ///< [stream, cell, kv_head, dim], as the tensor's type has it
  void const* v = nullptr;      ///< the same, or [stream, kv_head, dim, cell] if v_transposed
  kvslim::extents extent = {};  ///< tokens = cells in use
  index_t cells = 0;            ///< capacity of one stream
  bool v_transposed = false;    ///< only where V holds elements: true without flash attention
  std::int32_t const* positions = nullptr;  ///< cells are unordered: [stream, tokens]
};

}  // namespace adapt

namespace detail {

template <class T>
struct ggml_half {
  [[nodiscard]] static auto make(adapt::llama_cpp_quantized_cache const& c, void const* data,
                                 bool values) noexcept {
    index_t const d = values ? c.extent.value_width() : c.extent.head_dim;
    index_t const row = c.extent.kv_heads * d, stream = c.cells * row;
    strided const major{stream, d, row, 1}, transposed{stream, d * c.cells, 1, c.cells};
    return plane<T const, strided>{static_cast<T const*>(data),
                                   values && c.v_transposed ? transposed : major};
  }
};
template <ggml_block Type, class Tail>
struct ggml_half<ggml_rows<Type, Tail>> {
  [[nodiscard]] static auto make(adapt::llama_cpp_quantized_cache const& c, void const* data,
                                 bool values) noexcept {
    index_t const head =
        ggml_rows<Type, Tail>::row_bytes(values ? c.extent.value_width() : c.extent.head_dim);
    index_t const row = c.extent.kv_heads * head;
    return ggml_plane<Type>{static_cast<std::byte const*>(data),
                            {c.cells * row, head, row, values, values && c.v_transposed}};
  }
};

}  // namespace detail

namespace adapt {

/// One layer's K and V tensors of llama.cpp, each an element type or a quantized one:
/// llama_cpp_quantized<ggml_rows<ggml_block::q8_0>, f16>({...}). No copy. K is post-RoPE.
template <class Key, class Value = Key>
[[nodiscard]] auto llama_cpp_quantized(llama_cpp_quantized_cache const& c) noexcept {
  auto const k = kvslim::detail::ggml_half<Key>::make(c, c.k, false);
  auto const v = kvslim::detail::ggml_half<Value>::make(c, c.v, true);
  using view = ggml_cache_view<std::remove_const_t<decltype(k)>, std::remove_const_t<decltype(v)>>;
  return view{{c.extent, k, v, nullptr, c.positions}};
}

}  // namespace adapt

KVSLIM_END_NAMESPACE
