// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// Plain strided rows [sequence, head, token, head_dim]: queries, outputs, new tokens. Typed views
/// (rows_view) are what callers make; the verbs take `rows`, whose element type is a run-time
/// field, so that kernels multiply by codecs only.

#include <kvslim/core/channels.hpp>
#include <kvslim/core/layout.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Element types at run time.
enum class dtype : std::uint8_t { f32, f16, bf16, e4m3, e5m2 };

template <element T>
inline constexpr dtype dtype_of = std::same_as<std::remove_const_t<T>, float>  ? dtype::f32
                                  : std::same_as<std::remove_const_t<T>, f16>  ? dtype::f16
                                  : std::same_as<std::remove_const_t<T>, bf16> ? dtype::bf16
                                  : std::same_as<std::remove_const_t<T>, e4m3> ? dtype::e4m3
                                                                               : dtype::e5m2;

template <element T, class Space = host_space>
struct rows_view {
  using value_type = std::remove_const_t<T>;
  using space = Space;

  T* data = nullptr;
  index_t sequences = 1, heads = 1, tokens = 1, head_dim = 0;
  strided layout = {};

  [[nodiscard]] KVSLIM_HD constexpr T* row(index_t s, index_t h, index_t t = 0) const noexcept {
    return data + layout.offset(s, h, t);
  }
  /// Rows that may be written may be read.
  template <class U>
  requires(!std::is_const_v<T> && std::same_as<U, T const>) KVSLIM_HD constexpr
  operator rows_view<U, Space>() const noexcept {
    return {data, sequences, heads, tokens, head_dim, layout};
  }
};

/// What dense_rows is told.
struct rows_shape {
  index_t sequences = 1, heads = 1, tokens = 1, head_dim = 0;
};

/// Contiguous rows in [sequence, head, token, head_dim] order.
template <class Space = host_space, element T>
[[nodiscard]] KVSLIM_HD constexpr rows_view<T, Space> dense_rows(T* data,
                                                                 rows_shape shape) noexcept {
  return {data,
          shape.sequences,
          shape.heads,
          shape.tokens,
          shape.head_dim,
          {shape.heads * shape.tokens * shape.head_dim, shape.tokens * shape.head_dim,
           shape.head_dim, 1}};
}

namespace detail {

template <class Byte, class Space>
struct typeless_rows {
  using space = Space;

  Byte* data = nullptr;
  dtype type = dtype::f32;
  index_t sequences = 0, heads = 0, tokens = 0, head_dim = 0;
  strided layout = {};

  constexpr typeless_rows() noexcept = default;
  template <element T>
  requires(!std::is_const_v<T> || std::is_const_v<Byte>) KVSLIM_HD
      constexpr typeless_rows(rows_view<T, Space> const& r) noexcept
      : data(r.data),
        type(dtype_of<T>),
        sequences(r.sequences),
        heads(r.heads),
        tokens(r.tokens),
        head_dim(r.head_dim),
        layout(r.layout) {}

  [[nodiscard]] KVSLIM_HD constexpr bool has_shape(index_t s, index_t h, index_t t,
                                                   index_t d) const noexcept {
    return sequences == s && heads == h && tokens == t && head_dim == d;
  }
  /// `count` tokens from `first` on.
  [[nodiscard]] KVSLIM_HD typeless_rows part(index_t first, index_t count) const {
    typeless_rows out = *this;
    out.tokens = count;
    visit(0, 0, first, [&](auto* at) { out.data = at; });
    return out;
  }
  /// Calls f with a typed pointer to channel 0 of one row.
  template <class F>
  KVSLIM_HD void visit(index_t s, index_t h, index_t t, F const& f) const {
    index_t const at = layout.offset(s, h, t);
    auto const as = [&]<class T>(T*) {
      using typed = std::conditional_t<std::is_const_v<Byte>, T const, T>;
      f(static_cast<typed*>(data) + at);
    };
    switch (type) {
      case dtype::f32:
        return as(static_cast<float*>(nullptr));
      case dtype::f16:
        return as(static_cast<f16*>(nullptr));
      case dtype::bf16:
        return as(static_cast<bf16*>(nullptr));
      case dtype::e4m3:
        return as(static_cast<e4m3*>(nullptr));
      case dtype::e5m2:
        return as(static_cast<e5m2*>(nullptr));
    }
  }
  /// Reads one row as floats.
  KVSLIM_HD void load(index_t s, index_t h, index_t t, float* out) const {
    visit(s, h, t, [&](auto const* in) { load_channels(in, layout.channel, head_dim, out); });
  }
  /// Writes one row from floats, rounded once.
  KVSLIM_HD void store(index_t s, index_t h, index_t t, float const* in) const {
    visit(s, h, t, [&](auto* out) {
      using value = std::remove_cvref_t<decltype(*out)>;
      for (index_t d = 0; d < head_dim; ++d) out[d * layout.channel] = from_float<value>(in[d]);
    });
  }
  /// One channel.
  [[nodiscard]] KVSLIM_HD float at(index_t s, index_t h, index_t t, index_t d) const {
    float x = 0.0f;
    visit(s, h, t, [&](auto const* in) { x = to_float(in[d * layout.channel]); });
    return x;
  }
  KVSLIM_HD void put(index_t s, index_t h, index_t t, index_t d, float x) const {
    visit(s, h, t, [&](auto* out) {
      out[d * layout.channel] = from_float<std::remove_cvref_t<decltype(*out)>>(x);
    });
  }
};

}  // namespace detail

/// Rows to read, and rows to write, of any element type.
template <class Space = host_space>
using rows = detail::typeless_rows<void const, Space>;
template <class Space = host_space>
using rows_out = detail::typeless_rows<void, Space>;

KVSLIM_END_NAMESPACE
