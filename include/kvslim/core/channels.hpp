// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/isa/convert.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// Reads `n` channels, `stride` elements apart, as floats.
template <class T>
KVSLIM_HD inline void load_channels(T const* in, index_t stride, index_t n, float* out) noexcept {
  index_t const whole = stride == 1 ? n - n % 16 : 0;
  for (index_t d = 0; d < whole; d += 16) widen16(in + d, out + d);
  for (index_t d = whole; d < n; ++d) out[d] = to_float(in[d * stride]);
}

}  // namespace detail

/// The channels of one K or V row as floats, whatever their element type and stride:
/// `for (float x : token.key())`.
template <class T>
class channel_range {
 public:
  class iterator {
   public:
    KVSLIM_HD constexpr iterator(T const* at, index_t stride) noexcept : at_(at), stride_(stride) {}
    KVSLIM_HD constexpr float operator*() const noexcept { return to_float(*at_); }
    KVSLIM_HD constexpr iterator& operator++() noexcept {
      at_ += stride_;
      return *this;
    }
    KVSLIM_HD constexpr bool operator!=(iterator const& other) const noexcept {
      return at_ != other.at_;
    }

   private:
    T const* at_;
    index_t stride_;
  };

  KVSLIM_HD constexpr channel_range(T const* first, index_t stride, index_t size) noexcept
      : first_(first), stride_(stride), size_(size) {}
  [[nodiscard]] KVSLIM_HD constexpr iterator begin() const noexcept { return {first_, stride_}; }
  [[nodiscard]] KVSLIM_HD constexpr iterator end() const noexcept {
    return {first_ + size_ * stride_, stride_};
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t size() const noexcept { return size_; }
  [[nodiscard]] KVSLIM_HD constexpr float operator[](index_t d) const noexcept {
    return to_float(first_[d * stride_]);
  }
  [[nodiscard]] KVSLIM_HD constexpr T const* first() const noexcept { return first_; }
  [[nodiscard]] KVSLIM_HD constexpr index_t stride() const noexcept { return stride_; }
  KVSLIM_HD void load(float* out) const noexcept {
    detail::load_channels(first_, stride_, size_, out);
  }

 private:
  T const* first_;
  index_t stride_;
  index_t size_;
};

KVSLIM_END_NAMESPACE
