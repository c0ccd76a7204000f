// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Rows stored by one codec, without a cache around them.

#include <kvslim/core/codec.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

namespace data {

using kvslim::index_t;

/// Rows of normal values, channel 3 shifted by `outlier`.
inline std::vector<float> rows(index_t tokens, index_t dim, float spread = 1.0f,
                               float outlier = 0.0f, unsigned seed = 1) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0.0f, spread);
  std::vector<float> x(static_cast<std::size_t>(tokens * dim));
  for (std::size_t i = 0; i < x.size(); ++i)
    x[i] = normal(engine) + (static_cast<index_t>(i) % dim == 3 ? outlier : 0.0f);
  return x;
}

/// Blocks of a codec that hold `tokens` tokens, written `step` at a time (0: whole blocks).
template <class Codec>
struct stored {
  Codec codec;
  index_t tokens, dim;
  kvslim::codec_sizes sizes;
  std::vector<std::byte> bytes;

  stored(Codec const& c, std::vector<float> const& rows, index_t head_dim, index_t step = 0)
      : codec(c),
        tokens(static_cast<index_t>(rows.size()) / head_dim),
        dim(head_dim),
        sizes(c.sizes(head_dim, tokens)),
        bytes(static_cast<std::size_t>((tokens + sizes.block_tokens - 1) / sizes.block_tokens *
                                       sizes.block_bytes)) {
    for (index_t t = 0; t < tokens;) {
      auto at = site(t);
      at.n = std::min(
          {tokens - t, sizes.block_tokens - at.first, step == 0 ? sizes.block_tokens : step});
      codec.encode(rows.data() + t * dim, at, bytes.data() + offset(t));
      t += at.n;
    }
  }
  [[nodiscard]] index_t offset(index_t t) const {
    return t / sizes.block_tokens * sizes.block_bytes;
  }
  [[nodiscard]] kvslim::site site(index_t t, index_t n = 1) const {
    return {.first = t % sizes.block_tokens, .n = n, .dim = dim, .token = t};
  }
  [[nodiscard]] std::byte const* block(index_t t) const { return bytes.data() + offset(t); }

  [[nodiscard]] float value(index_t t, index_t d) const {
    return codec.decode(block(t), site(t), d);
  }
  [[nodiscard]] std::uint32_t code(index_t t, index_t d) const {
    return codec.code(block(t), site(t), d);
  }
  [[nodiscard]] auto parameters(index_t t, index_t d) const {
    return codec.parameters(block(t), site(t), d);
  }
};

/// Where a sum of codes times steps, plus minimums, may lose digits: the magnitudes that are added.
template <class Codec>
double magnitude(stored<Codec> const& s, index_t t, index_t d) {
  if constexpr (requires { s.codec.parameters(s.block(t), s.site(t), d); }) {
    auto const a = s.parameters(t, d);
    return std::abs(s.code(t, d) * static_cast<double>(kvslim::to_float(a.scale))) +
           std::abs(static_cast<double>(kvslim::to_float(a.low)));
  } else {
    return std::abs(static_cast<double>(s.value(t, d)));
  }
}

/// The largest error of dot over [first, first + n), as a fraction of the magnitudes added.
template <class Codec>
double dot_error(stored<Codec> const& s, index_t first, index_t n, index_t heads,
                 std::vector<float> const& q) {
  std::vector<float> scores(static_cast<std::size_t>(heads * kvslim::run_tokens), 1.0f);
  s.codec.dot(s.block(first), s.site(first, n), q.data(), heads, scores.data());
  double worst = 0;
  for (index_t h = 0; h < heads; ++h)
    for (index_t i = 0; i < kvslim::run_tokens; ++i) {
      double sum = 1, added = 1;  // beyond n, scores stay what they were
      for (index_t d = 0; d < s.dim && i < n; ++d) {
        double const x = q[static_cast<std::size_t>(h * s.dim + d)];
        sum += x * s.value(first + i, d);
        added += std::abs(x) * magnitude(s, first + i, d);
      }
      double const got = scores[static_cast<std::size_t>(h * kvslim::run_tokens + i)];
      worst = std::max(worst, std::abs(got - sum) / added);
    }
  return worst;
}

/// The same of accumulate; p is [heads, run_tokens].
template <class Codec>
double accumulate_error(stored<Codec> const& s, index_t first, index_t n, index_t heads,
                        std::vector<float> const& p) {
  std::vector<float> out(static_cast<std::size_t>(heads * s.dim), 1.0f);
  s.codec.accumulate(s.block(first), s.site(first, n), p.data(), heads, out.data());
  double worst = 0;
  for (index_t h = 0; h < heads; ++h)
    for (index_t d = 0; d < s.dim; ++d) {
      double sum = 1, added = 1;
      for (index_t i = 0; i < n; ++i) {
        double const x = p[static_cast<std::size_t>(h * kvslim::run_tokens + i)];
        sum += x * s.value(first + i, d);
        added += std::abs(x) * magnitude(s, first + i, d);
      }
      worst = std::max(worst, std::abs(out[static_cast<std::size_t>(h * s.dim + d)] - sum) / added);
    }
  return worst;
}

/// What `n` float roundings in a row may lose of the magnitudes added.
inline double roundings(int n) { return n * std::ldexp(1.0, -24); }

}  // namespace data
