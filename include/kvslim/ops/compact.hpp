// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace ops {

/// Gathers kept tokens to the front of every row. `kept` [rows, capacity] ascending, `counts`
/// [rows]. In place (source == target) is allowed: ascending moves never overtake their sources.
/// Any layouts; the same element type. Returns: invalid_shape if an index is out of range, not
/// ascending, or the extents differ; then nothing was written. Cost: one read and one write of what
/// stays. A paged engine frees the pages behind each row's count afterwards.
template <host_executor Exec, class Source, class Target>
status compact(Exec const& exec, Source const& source, Target const& target,
               std::int32_t const* kept, index_t const* counts, index_t capacity) {
  auto const e = source.extent;
  if (kept == nullptr || counts == nullptr)
    return detail::fail(errc::invalid_pointer, "kvslim: compact was given a null pointer");
  if (e.sequences != target.extent.sequences || e.kv_heads != target.extent.kv_heads ||
      e.head_dim != target.extent.head_dim)
    return detail::fail(errc::invalid_shape,
                        "kvslim: compact needs source and target of the same shape");
  for (index_t r = 0; r < e.rows(); ++r) {
    if (counts[r] < 0 || counts[r] > capacity || counts[r] > target.extent.tokens)
      return detail::fail(errc::invalid_shape,
                          "kvslim: compact's counts exceed the capacity or the target");
    for (index_t i = 0; i < counts[r]; ++i) {
      index_t const t = kept[r * capacity + i];
      if (t < 0 || t >= source.length(r / e.kv_heads) || (i > 0 && t <= kept[r * capacity + i - 1]))
        return detail::fail(errc::invalid_shape,
                            "kvslim: compact's kept tokens must be in range and ascending");
    }
  }
  exec.for_each(e.rows(), [=](index_t r) {
    index_t const s = r / e.kv_heads, h = r % e.kv_heads;
    for (index_t i = 0; i < counts[r]; ++i) {
      index_t const t = kept[r * capacity + i];
      for (index_t d = 0; d < e.head_dim; ++d) {
        target.k.at(s, h, i, d) = source.k.at(s, h, t, d);
        target.v.at(s, h, i, d) = source.v.at(s, h, t, d);
      }
    }
  });
  return {};
}

}  // namespace ops

KVSLIM_END_NAMESPACE
