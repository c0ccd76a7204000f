// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Levels that are no equal steps: a codebook of 2^Bits numbers for values between -1 and 1, from a
// table or fitted to the prompt, and the first tokens of a row kept exact beside what is coded.

#include <kvslim/codec/outliers.hpp>
#include <kvslim/codec/planar.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Where codebooks (and the thresholds of K) lie: in a table that the cache binds (codec_tables),
/// or fitted to the prompt and stored with it.
enum class codebook_from : std::uint32_t { table, prompt };

namespace detail {

/// The level next to y, the earlier one of two.
template <int Bits>
[[nodiscard]] KVSLIM_HD inline std::uint32_t nearest_level(float y, float const* levels) noexcept {
  std::uint32_t best = 0;
  float least = y < levels[0] ? levels[0] - y : y - levels[0];
  for (std::uint32_t i = 1; i < (1u << Bits); ++i) {
    float const apart = y < levels[i] ? levels[i] - y : y - levels[i];
    if (apart < least) {
      least = apart;
      best = i;
    }
  }
  return best;
}

/// Tokens of the prompt, evenly spaced, that a fit looks at.
inline constexpr index_t most_fitted = 2048;
[[nodiscard]] KVSLIM_HD constexpr index_t fitted_tokens(index_t n) noexcept {
  return min(n, most_fitted);
}
/// Which of them token t of n is; -1: none.
[[nodiscard]] KVSLIM_HD constexpr index_t place_in_fit(index_t t, index_t n) noexcept {
  index_t const looked = fitted_tokens(n), i = div_up(t * looked, n);
  return i < looked && i * n / looked == t ? i : -1;
}

/// Values of [-1, 1] in bins: how many, then their sums.
struct level_bins {
  static constexpr index_t count = 512, floats = 2 * count;
  float* bins;

  KVSLIM_HD void clear() const noexcept {
    for (index_t i = 0; i < floats; ++i) bins[i] = 0.0f;
  }
  [[nodiscard]] static KVSLIM_HD index_t bin_of(float y) noexcept {
    auto const at = static_cast<index_t>((y + 1.0f) * (0.5f * static_cast<float>(count)));
    return max(index_t{0}, min(at, count - 1));
  }
  KVSLIM_HD void add(float y) const noexcept {
    index_t const i = bin_of(y);
    bins[i] += 1.0f;
    bins[count + i] += y;
  }
  [[nodiscard]] KVSLIM_HD float mean(index_t i) const noexcept { return bins[count + i] / bins[i]; }

  static constexpr int rounds = 50;  ///< of k-means
  /// Where k-means begins: at quantiles; equal steps, and false, if nothing was added.
  template <int Bits>
  KVSLIM_HD bool begin(float* levels) const noexcept {
    constexpr index_t n = index_t{1} << Bits;
    float all = 0.0f;
    for (index_t i = 0; i < count; ++i) all += bins[i];
    float below = 0.0f;
    for (index_t i = 0, j = 0; j < n; ++j) {
      levels[j] = (static_cast<float>(j) + 0.5f) * (2.0f / static_cast<float>(n)) - 1.0f;
      if (all == 0.0f) continue;
      float const wanted = (static_cast<float>(j) + 0.5f) / static_cast<float>(n) * all;
      while (i < count - 1 && below + bins[i] <= wanted) below += bins[i++];
      if (bins[i] > 0.0f) levels[j] = mean(i);
    }
    return all > 0.0f;
  }
  /// The k-means of what was added. A bin goes to the level next to its mean.
  template <int Bits>
  KVSLIM_HD void fit(float* levels) const noexcept {
    constexpr index_t n = index_t{1} << Bits;
    bool const any = begin<Bits>(levels);
    for (int round = 0; round < rounds && any; ++round) {
      local<float, n> next = {}, weight = {};
      for (index_t i = 0; i < count; ++i) {
        if (bins[i] == 0.0f) continue;
        auto const j = nearest_level<Bits>(mean(i), levels);
        next[j] += bins[count + i];
        weight[j] += bins[i];
      }
      for (index_t j = 0; j < n; ++j)
        if (weight[j] > 0.0f) levels[j] = next[j] / weight[j];
    }
  }
};

/// The first tokens of a row, in its state: u32 how many, 12 bytes zero, T rows[most][dim].
template <element T>
struct first_tokens {
  index_t most, dim;

  [[nodiscard]] KVSLIM_HD constexpr index_t bytes() const noexcept {
    return head + round_up(most * dim * static_cast<index_t>(sizeof(T)), 4);
  }
  /// Stores those of a prompt of n tokens.
  template <class Read>
  KVSLIM_HD void keep(Read const& read, index_t n, std::byte* state, float* row) const {
    std::uint32_t const words[4] = {static_cast<std::uint32_t>(min(n, most))};
    std::memcpy(state, words, sizeof words);
    T* const out = array_at<T>(state + head);
    for (index_t t = 0; t < min(n, most); ++t) {
      read(index_t{0}, t, row);
      for (index_t d = 0; d < dim; ++d) out[t * dim + d] = from_float<T>(row[d]);
    }
  }
  /// The row of a token, or null if it is not among them.
  [[nodiscard]] KVSLIM_HD T const* find(std::byte const* state, index_t token) const noexcept {
    std::uint32_t n = 0;
    if (state != nullptr) std::memcpy(&n, state, sizeof n);
    if (token >= min(static_cast<index_t>(n), most)) return nullptr;
    return array_at<T const>(state + head) + token * dim;
  }

 private:
  static constexpr index_t head = 16;
};

[[nodiscard]] KVSLIM_HD constexpr status check_codebook(index_t sinks, float outliers,
                                                        index_t records) noexcept {
  if (sinks < 0 || sinks > 1024)
    return fail(errc::invalid_option, "kvslim: kvquant keeps 0 to 1024 first tokens exact");
  if (!(outliers >= 0.0f && outliers <= 0.1f))
    return fail(errc::invalid_option, "kvslim: kvquant's outliers must be a share in [0, 0.1]");
  if (records < 1 || records > most_channels)
    return fail(errc::invalid_option, "kvslim: kvquant's table holds 1 to 1048576 records");
  return {};
}

}  // namespace detail

KVSLIM_END_NAMESPACE
