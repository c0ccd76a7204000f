// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Glue between seeded data and the references.

#include "data.hpp"
#include "reference/reference.hpp"

namespace oracle {

using data::index_t;

inline reference::matrix keys(data::cache const& c, index_t s, index_t h, index_t count = -1) {
  reference::matrix m;
  for (index_t t = 0; t < (count < 0 ? c.shape.tokens : count); ++t) {
    m.emplace_back();
    for (index_t d = 0; d < c.shape.head_dim; ++d) m.back().push_back(c.key(s, h, t, d));
  }
  return m;
}
inline reference::matrix values(data::cache const& c, index_t s, index_t h, index_t count = -1) {
  reference::matrix m;
  for (index_t t = 0; t < (count < 0 ? c.shape.tokens : count); ++t) {
    m.emplace_back();
    for (index_t d = 0; d < c.shape.head_dim; ++d) m.back().push_back(c.value(s, h, t, d));
  }
  return m;
}
inline std::vector<reference::matrix> window(data::cache const& c, index_t s, index_t h,
                                             index_t n) {
  std::vector<reference::matrix> heads;
  auto const view = c.queries(n);
  for (index_t g = 0; g < c.shape.group; ++g) {
    heads.emplace_back();
    for (index_t w = 0; w < n; ++w) {
      float const* const row = view.row(s, h * c.shape.group + g, w);
      heads.back().emplace_back(row, row + c.shape.head_dim);
    }
  }
  return heads;
}

/// Relative L2 error of attend() over a packed cache against attention over its decoded form; also
/// checks lse.
template <class Packed>
double attend_error(Packed const& packed, data::cache const& c) {
  auto const& s = c.shape;
  index_t const heads = s.kv_heads * s.group, d = s.head_dim;
  std::vector<float> out(static_cast<std::size_t>(s.sequences * heads * d)),
      lse(static_cast<std::size_t>(s.sequences * heads));
  auto const q = c.queries(1);
  kvslim::rows_shape const shape{s.sequences, heads, 1, d};
  auto const done =
      kvslim::attend(kvslim::cpu{}, q, packed, kvslim::dense_rows(out.data(), shape), lse.data());
  if (!done) return 1e9;
  double error = 0, norm = 0;
  for (index_t i = 0; i < s.sequences; ++i)
    for (index_t h = 0; h < heads; ++h) {
      index_t const r = i * s.kv_heads + h / s.group, n = packed.tokens(i, h / s.group);
      reference::matrix k, v;
      std::vector<double> bias;
      for (index_t t = 0; t < n; ++t) {
        k.emplace_back();
        v.emplace_back();
        for (index_t x = 0; x < d; ++x) {
          k.back().push_back(packed.key(r, t, x));
          v.back().push_back(packed.value(r, t, x));
        }
        bias.push_back(packed.log_weight(r, t));
      }
      auto const expected = reference::attention({q.row(i, h), q.row(i, h) + d}, k, v, bias);
      for (index_t x = 0; x < d; ++x) {
        double const delta = expected.out[static_cast<std::size_t>(x)] -
                             out[static_cast<std::size_t>((i * heads + h) * d + x)];
        error += delta * delta;
        norm +=
            expected.out[static_cast<std::size_t>(x)] * expected.out[static_cast<std::size_t>(x)];
      }
      error += std::pow(expected.lse - lse[static_cast<std::size_t>(i * heads + h)], 2) * 1e-2;
    }
  return std::sqrt(error / norm);
}

}  // namespace oracle
