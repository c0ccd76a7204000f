// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Sparse outliers: of a line of values (a channel's tokens, a token's channels) the few smallest
// and the few largest are kept aside as f16 with their places; codes are made of the rest.

#include <kvslim/codec/planar.hpp>
#include <kvslim/isa/correction_kernels.hpp>
#include <kvslim/isa/outlier_kernels.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// How many values are kept aside at either end of a line: half of `share`, at least one.
[[nodiscard]] KVSLIM_HD constexpr index_t outliers_of(index_t length, float share) noexcept {
  if (share == 0.0f) return 0;
  auto const each = static_cast<index_t>(static_cast<float>(length) * share * 0.5f);
  return min(max(index_t{1}, each), length / 2);
}
[[nodiscard]] KVSLIM_HD constexpr status check_outliers(float share, index_t dim) noexcept {
  if (!(share >= 0.0f && share <= 0.5f))
    return fail(errc::invalid_option, "kvslim: outliers must be a share in [0, 0.5]");
  if (dim > 65536)
    return fail(errc::invalid_shape, "kvslim: outliers need head_dim to be at most 65536");
  return {};
}

/// The outliers of `lines` lines in a block: f16 values [lines][2 * each], then their places as u8
/// or, in lines longer than 256, u16.
template <class Byte>
struct outlier_lists {
  Byte* bytes;
  index_t lines, each, length;

  [[nodiscard]] static KVSLIM_HD constexpr index_t place_bytes(index_t length) noexcept {
    return length > 256 ? 2 : 1;
  }
  /// Bytes of all lists, as a multiple of four.
  [[nodiscard]] static KVSLIM_HD constexpr index_t bytes_of(index_t lines, index_t each,
                                                            index_t length) noexcept {
    return round_up(lines * 2 * each * (2 + place_bytes(length)), 4);
  }
  [[nodiscard]] KVSLIM_HD float value(index_t line, index_t i) const noexcept {
    return widen(array_at<f16>(bytes)[line * 2 * each + i]);
  }
  [[nodiscard]] KVSLIM_HD index_t place(index_t line, index_t i) const noexcept {
    index_t const at = line * 2 * each + i;
    Byte* const places = bytes + lines * 2 * each * 2;
    if (length <= 256) return static_cast<index_t>(places[at]);
    return static_cast<index_t>(places[2 * at]) | static_cast<index_t>(places[2 * at + 1]) << 8;
  }
  [[nodiscard]] KVSLIM_HD aside_numbers numbers() const noexcept {
    return {array_at<f16 const>(bytes), codes_of(bytes + lines * 2 * each * 2), 2 * each,
            length > 256};
  }
  /// Which outlier of its line a place is; -1: none.
  [[nodiscard]] KVSLIM_HD index_t find(index_t line, index_t at) const noexcept {
    for (index_t i = 0; i < 2 * each; ++i)
      if (place(line, i) == at) return i;
    return -1;
  }
  /// Finds and stores the outliers of a line x(0) .. x(length - 1): smaller first, then earlier.
  template <class X>
  KVSLIM_HD void choose(index_t line, X const& x) const noexcept {
    for (int end = 0; end < 2; ++end) {
      float last = 0.0f;
      index_t last_at = -1;
      auto const before = [&](float a, index_t i, float b, index_t j) {  // in the order of this end
        if (a != b) return end == 0 ? a < b : a > b;
        return end == 0 ? i < j : i > j;
      };
      for (index_t i = 0; i < each; ++i) {
        index_t best = -1;
        for (index_t t = 0; t < length; ++t) {
          if (last_at >= 0 && !before(last, last_at, x(t), t)) continue;
          if (best < 0 || before(x(t), t, x(best), best)) best = t;
        }
        last_at = best < 0 ? 0 : best;  // NaN is before nothing
        last = x(last_at);
        put(line, end * each + i, last, last_at);
      }
    }
  }
  /// Calls f(), which changes the values *at(line, place) of n lines, four at most; those kept
  /// aside become what their f16 misses of them as they were.
  template <class At, class F>
  KVSLIM_HD void keep_missed(index_t line, index_t n, At const& at, F const& f) const noexcept {
    float missed[4 * 2 * most_aside];
    index_t const of_line = 2 * each;
    auto const all = [&](auto const& step) {
      for (index_t l = 0; l < n; ++l)
        for (index_t i = 0; i < of_line; ++i)
          step(missed[l * of_line + i], *at(line + l, place(line + l, i)), value(line + l, i));
    };
    all([](float& kept, float x, float stored) { kept = x - stored; });
    f();
    all([](float kept, float& x, float) { x = kept; });
  }
  KVSLIM_HD void put(index_t line, index_t i, float value, index_t at) const noexcept {
    index_t const to = line * 2 * each + i;
    array_at<f16>(bytes)[to] = narrow<f16>(value);
    Byte* const places = bytes + lines * 2 * each * 2;
    if (length <= 256) {
      places[to] = static_cast<std::byte>(at);
    } else {
      places[2 * to] = static_cast<std::byte>(at & 255);
      places[2 * to + 1] = static_cast<std::byte>(at >> 8);
    }
  }
};

/// Mean of a line, in double and rounded once.
template <class X>
[[nodiscard]] KVSLIM_HD inline float mean_of(index_t n, X const& x) noexcept {
  double sum = 0.0;
  for (index_t i = 0; i < n; ++i) sum += static_cast<double>(x(i));
  return static_cast<float>(sum / static_cast<double>(n));
}

}  // namespace detail

KVSLIM_END_NAMESPACE
