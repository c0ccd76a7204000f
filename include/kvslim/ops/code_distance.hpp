// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// Binary codes of pages: a bit for each of its tokens and then each head of its layer, set where
/// the token is in the better half of the head. Compared by how many bits differ from an anchor's.

#include <kvslim/ops/open_pages.hpp>

KVSLIM_BEGIN_NAMESPACE

/// What codes are compared with. The mean has the bits that more than half of the pages have, the
/// inverse mean those that fewer have; alternating has every second; given repeats 64 bits.
enum class code_anchor : std::uint8_t { alternating, mean, inverse_mean, zeros, ones, given };

namespace ops {

struct code_rule {
  code_anchor anchor = code_anchor::alternating;
  std::uint64_t bits = 0;  ///< of a given anchor, the lowest first
  index_t heads = 1;       ///< of a layer that have bits, from the first on

  /// Whether bit b of the anchor is set; `set` of `pages` codes have it.
  [[nodiscard]] KVSLIM_HD constexpr bool has(index_t b, index_t set, index_t pages) const noexcept {
    switch (anchor) {
      case code_anchor::alternating:
        return b % 2 == 1;
      case code_anchor::mean:
        return 2 * set > pages;
      case code_anchor::inverse_mean:
        return 2 * set < pages;
      case code_anchor::zeros:
        return false;
      case code_anchor::ones:
        return true;
      case code_anchor::given:
        return (bits >> (b % 64) & 1) != 0;
    }
    return false;
  }
  /// Bits of a code.
  [[nodiscard]] KVSLIM_HD constexpr index_t length(open_pages const& pages) const noexcept {
    return pages.split.size * heads;
  }
  /// Pages that a sequence's codes are of: as many as its longest head has.
  [[nodiscard]] KVSLIM_HD index_t pages_of(open_pages const& pages, index_t s) const noexcept {
    index_t most = 0;
    for (index_t h = 0; h < pages.extent.kv_heads; ++h)
      most = detail::max(most, pages.counts[s * pages.extent.kv_heads + h]);
    return most;
  }
  /// Bit b of a page's code; unset where a head lacks the page.
  [[nodiscard]] KVSLIM_HD bool bit(open_pages const& pages, index_t s, index_t page,
                                   index_t b) const noexcept {
    index_t const row = s * pages.extent.kv_heads + b % heads;
    return page < pages.counts[row] &&
           pages.marks[row * pages.extent.tokens +
                       pages.rank(row, page * pages.split.size + b / heads)] == fate::kept;
  }
};

struct code_distance_op {};

/// Bits that differ between the code of every page and the anchor: distances [sequences, tokens]
/// by page, of pages_of() pages; `anchor` is scratch, [sequences, length].
/// Cost: twice a read of every mark.
template <class Exec>
status code_distance(Exec const& exec, open_pages const& pages, code_rule const& rule,
                     std::uint8_t* anchor, std::int32_t* distances) {
  return implementation<code_distance_op, Exec>::run(exec, pages, rule, anchor, distances);
}

}  // namespace ops

template <host_executor Exec>
struct implementation<ops::code_distance_op, Exec> {
  static status run(Exec const& exec, ops::open_pages const& pages, ops::code_rule const& rule,
                    std::uint8_t* anchor, std::int32_t* distances) {
    index_t const length = rule.length(pages), sequences = pages.extent.sequences;
    exec.for_each(sequences * length, [=](index_t i) {
      index_t const s = i / length, b = i % length, n = rule.pages_of(pages, s);
      index_t set = 0;
      for (index_t p = 0; p < n; ++p) set += rule.bit(pages, s, p, b) ? 1 : 0;
      anchor[i] = rule.has(b, set, n) ? 1 : 0;
    });
    exec.for_each(sequences, [=](index_t s) {
      for (index_t p = 0; p < rule.pages_of(pages, s); ++p) {
        std::int32_t differ = 0;
        for (index_t b = 0; b < length; ++b)
          differ += rule.bit(pages, s, p, b) != (anchor[s * length + b] != 0) ? 1 : 0;
        distances[s * pages.extent.tokens + p] = differ;
      }
    });
    return {};
  }
};

KVSLIM_END_NAMESPACE
