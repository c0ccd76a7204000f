// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Rows that a caller hands over (queries, new tokens, room for results), checked, read and written
// by the processor's own instructions. They cost the same whatever the cache holds.

#include <kvslim/isa/encode_kernels.hpp>
#include <kvslim/ops/finite.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// As ops::row_within.
template <class Rows>
[[nodiscard]] KVSLIM_HD inline bool given_within(Rows const& r, index_t s, index_t h, index_t t,
                                                 float limit) noexcept {
  bool good = false;
  r.visit(s, h, t, [&](auto const* in) {
    if (r.layout.channel == 1 && run_within(in, r.head_dim, limit, good)) return;
    good = ops::within(in, r.layout.channel, r.head_dim, limit);
  });
  return good;
}

/// As ops::all_within.
template <class Rows>
[[nodiscard]] KVSLIM_HD inline bool all_given_within(Rows const& r, float limit) noexcept {
  bool const tight = r.layout.channel == 1 && r.layout.kv_head == r.tokens * r.head_dim &&
                     (r.tokens == 1 || r.layout.token == r.head_dim);
  for (index_t s = 0; s < r.sequences; ++s) {
    if (tight) {  // all of a sequence at once
      bool good = false, done = false;
      r.visit(s, 0, 0, [&](auto const* in) {
        done = run_within(in, r.heads * r.tokens * r.head_dim, limit, good);
      });
      if (done && !good) return false;
      if (done) continue;
    }
    for (index_t h = 0; h < r.heads; ++h)
      for (index_t t = 0; t < r.tokens; ++t)
        if (!given_within(r, s, h, t, limit)) return false;
  }
  return true;
}

/// One row as floats.
template <class Rows>
KVSLIM_HD inline void load_given(Rows const& r, index_t s, index_t h, index_t t,
                                 float* out) noexcept {
  r.visit(s, h, t, [&](auto const* in) {
    if (r.layout.channel == 1 && widen_run(in, r.head_dim, out)) return;
    load_channels(in, r.layout.channel, r.head_dim, out);
  });
}

/// Multiplies n values by a number.
KVSLIM_HD inline void scale_given(float* x, index_t n, float by) noexcept {
  if (scale_run(x, n, by)) return;
  for (index_t i = 0; i < n; ++i) x[i] *= by;
}

/// Writes one row of results, rounded once.
template <class Rows>
KVSLIM_HD inline void store_given(Rows const& r, index_t s, index_t h, index_t t,
                                  float const* in) noexcept {
  bool done = false;
  r.visit(s, h, t,
          [&](auto* out) { done = r.layout.channel == 1 && narrow_run(in, r.head_dim, out); });
  if (!done) r.store(s, h, t, in);
}

}  // namespace detail

KVSLIM_END_NAMESPACE
