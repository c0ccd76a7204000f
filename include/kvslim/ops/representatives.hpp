// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/ops/open_pages.hpp>

#include <algorithm>

KVSLIM_BEGIN_NAMESPACE

/// How representatives lie among the candidates in order: every n / count-th from the first on, or
/// evenly from the first to the last.
enum class spacing : std::uint8_t { stride, ends };

namespace ops {

/// Whether the candidate at `place` of n in order is one of `count` representatives.
[[nodiscard]] KVSLIM_HD constexpr bool is_representative(spacing how, index_t place, index_t n,
                                                         index_t count) noexcept {
  count = detail::min(count, n);
  if (count < 1) return false;
  if (count == 1) return place == 0;
  if (how == spacing::stride) return place % (n / count) == 0 && place / (n / count) < count;
  index_t const i = detail::div_up(place * (count - 1), n - 1);
  return i * (n - 1) / (count - 1) == place;
}

struct keep_representatives_op {};

/// Keeps some of each row's evicted pages, spaced out in the order of their distance; equal
/// distances in text order.
///
/// Shapes: distances [sequences, tokens] by page, at most `longest`; `keys` is scratch,
/// [rows, tokens]. Cost: a sort of the pages (CUDA: a pass of one warp).
template <class Exec>
status keep_representatives(Exec const& exec, open_pages const& pages,
                            std::int32_t const* distances, index_t longest, spacing how,
                            std::uint64_t* keys) {
  return implementation<keep_representatives_op, Exec>::run(exec, pages, distances, longest, how,
                                                            keys);
}

}  // namespace ops

template <host_executor Exec>
struct implementation<ops::keep_representatives_op, Exec> {
  static status run(Exec const& exec, ops::open_pages const& pages, std::int32_t const* distances,
                    index_t, spacing how, std::uint64_t* keys) {
    auto const& e = pages.extent;
    exec.for_each(e.rows(), [=](index_t r) {
      fate* const fates = pages.fates + r * e.tokens;
      std::uint64_t* const order = keys + r * e.tokens;
      index_t n = 0;
      for (index_t p = 0; p < pages.counts[r]; ++p)
        if (fates[p] == fate::evicted)
          order[n++] = static_cast<std::uint64_t>(distances[r / e.kv_heads * e.tokens + p]) << 32 |
                       static_cast<std::uint64_t>(p);
      std::sort(order, order + n);
      for (index_t i = 0; i < n; ++i)
        if (ops::is_representative(how, i, n, pages.representatives[r]))
          fates[order[i] & 0xffffffffu] = fate::kept;
    });
    return {};
  }
};

KVSLIM_END_NAMESPACE
