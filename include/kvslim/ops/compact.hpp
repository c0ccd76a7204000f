// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/keep_set.hpp>
#include <kvslim/exec/cpu.hpp>
#include <kvslim/isa/score_kernels.hpp>

#include <cstring>

KVSLIM_BEGIN_NAMESPACE

namespace ops {

struct compact_op {};

/// Gathers what a keep set names to the front cells of every row, in text order. Any layouts; the
/// same element type. Target and source may be the same view if the set's cells ascend in every row
/// (always where the view is in text order); otherwise they must not overlap.
///
/// Returns: invalid_shape (a cell out of range, unequal extents, a target too short, moves that
/// would overtake their source), invalid_pointer; then nothing was written. Cost: one read and one
/// write of what stays. A paged engine frees the pages behind each row's count afterwards.
template <class Exec, class Source, class Target>
status compact(Exec const& exec, Source const& source, Target const& target, keep_set const& keep) {
  static_assert(std::same_as<typename Source::key_plane::value_type,
                             typename Target::key_plane::value_type> &&
                    std::same_as<typename Source::value_plane::value_type,
                                 typename Target::value_plane::value_type>,
                "kvslim: compact moves elements and does not convert them");
  return implementation<compact_op, Exec>::run(exec, source, target, keep);
}

/// Everything about a compact call that needs no look at the keep set.
template <class Source, class Target>
[[nodiscard]] status check_compact(Source const& source, Target const& target,
                                   keep_set const& keep) noexcept {
  auto const& e = source.extent;
  if (keep.begins == nullptr || keep.cells == nullptr)
    return detail::fail(errc::invalid_pointer, "kvslim: compact was given a null keep set");
  if (auto const s = detail::check_cache(source); !s) return s;
  if (target.k.data == nullptr || target.v.data == nullptr)
    return detail::fail(errc::invalid_pointer, "kvslim: compact's target is a null pointer");
  if (e.sequences != target.extent.sequences || e.kv_heads != target.extent.kv_heads ||
      e.head_dim != target.extent.head_dim || e.value_width() != target.extent.value_width())
    return detail::fail(errc::invalid_shape,
                        "kvslim: compact needs source and target of the same shape");
  return {};
}

template <class Plane>
[[nodiscard]] constexpr index_t row_bytes(Plane const&, index_t width) noexcept {
  return width * static_cast<index_t>(sizeof(typename Plane::value_type));
}
/// Whether the rows of both are whole lines of 64 bytes, the same distance apart; and where.
template <class Source, class Target>
[[nodiscard]] bool lies_in_lines(Source const& source, Target const& target, index_t s, index_t h,
                                 index_t width, detail::moved_rows& rows) noexcept {
  if constexpr (requires {
                  source.layout.token;
                  target.layout.token;
                }) {
    rows = {reinterpret_cast<std::byte const*>(source.row(s, h, 0)),
            reinterpret_cast<std::byte*>(target.row(s, h, 0)),
            row_bytes(source, source.layout.token), row_bytes(source, target.layout.token),
            row_bytes(source, width)};
    auto const all = reinterpret_cast<std::uintptr_t>(rows.from) |
                     reinterpret_cast<std::uintptr_t>(rows.to) |
                     static_cast<std::uintptr_t>(rows.from_step | rows.to_step | rows.bytes);
    return source.layout.channel_stride() == 1 && target.layout.channel_stride() == 1 &&
           all % 64 == 0;
  } else {
    return false;
  }
}

}  // namespace ops

template <host_executor Exec>
struct implementation<ops::compact_op, Exec> {
  template <class Source, class Target>
  static status run(Exec const& exec, Source const& source, Target const& target,
                    keep_set const& keep) {
    if (auto const s = ops::check_compact(source, target, keep); !s) return s;
    auto const e = source.extent;
    bool const in_place = static_cast<void const*>(source.k.data) == target.k.data ||
                          static_cast<void const*>(source.v.data) == target.v.data;
    for (index_t r = 0; r < e.rows(); ++r) {
      if (keep.count(r) < 0 || keep.count(r) > target.extent.tokens)
        return detail::fail(errc::invalid_shape, "kvslim: compact's target is shorter than a row");
      index_t const length = source.length(r / e.kv_heads, r % e.kv_heads);
      for (index_t i = keep.begins[r]; i < keep.begins[r + 1]; ++i) {
        index_t const cell = keep.cells[i];
        if (cell < 0 || cell >= length)
          return detail::fail(errc::invalid_shape, "kvslim: compact's cells must be in range");
        if (in_place && i > keep.begins[r] && cell <= keep.cells[i - 1])
          return detail::fail(errc::invalid_shape,
                              "kvslim: compact in place needs cells that ascend");
      }
    }
    // Beyond a cache of its own a core had better not keep what it writes.
    bool const far = keep.begins[e.rows()] * (ops::row_bytes(source.k, e.head_dim) +
                                              ops::row_bytes(source.v, e.value_width())) >
                     index_t{4} << 20;
    exec.for_each(e.rows(), [=](index_t r) {
      index_t const s = r / e.kv_heads, h = r % e.kv_heads;
      std::int32_t const* const cells = keep.cells + keep.begins[r];
      index_t const count = keep.count(r);
      detail::moved_rows k{}, v{};
      if (ops::lies_in_lines(source.k, target.k, s, h, e.head_dim, k) &&
          ops::lies_in_lines(source.v, target.v, s, h, e.value_width(), v) &&
          detail::with_score_kernels(
              [&](auto kernels) { decltype(kernels)::move_rows(k, v, cells, count, far); }))
        return;
      auto const move = [&](auto const& from, auto const& to, index_t width, index_t i,
                            index_t cell) {
        auto const* const x = from.row(s, h, cell);
        auto* const y = to.row(s, h, i);
        index_t const step = from.layout.channel_stride(), stride = to.layout.channel_stride();
        if (step == 1 && stride == 1)
          std::memmove(y, x, static_cast<std::size_t>(width) * sizeof *y);
        else
          for (index_t d = 0; d < width; ++d) y[d * stride] = x[d * step];
      };
      // Kept rows lie too far apart for a processor to foresee them.
      constexpr index_t ahead = 8;
      for (index_t i = 0; i < count; ++i) {
        if (i + ahead < count) {
          detail::prefetch_row(source.key(s, h, cells[i + ahead]));
          detail::prefetch_row(source.value(s, h, cells[i + ahead]));
        }
        move(source.k, target.k, e.head_dim, i, cells[i]);
        move(source.v, target.v, e.value_width(), i, cells[i]);
      }
    });
    return {};
  }
};

KVSLIM_END_NAMESPACE
