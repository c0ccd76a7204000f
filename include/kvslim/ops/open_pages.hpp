// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// Pages of the tokens that a keep rule decides about: a row's unprotected tokens in text order,
/// `size` of them to a page. What does not fill a page is in none.

#include <kvslim/core/keep_set.hpp>
#include <kvslim/exec/cpu.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace ops {

/// How a row's room is shared out: pages that are kept for their scores, and representatives of
/// the others, which get `ratio` of the room and at least a page.
struct page_split {
  index_t size = 1;    ///< tokens of a page
  double ratio = 0.0;  ///< 0: no representatives

  struct pages {
    index_t best = 0, representatives = 0;
  };
  [[nodiscard]] KVSLIM_HD constexpr pages of(index_t room) const noexcept {
    auto const share = static_cast<index_t>(static_cast<double>(room) * ratio);
    pages n{(room - share) / size, ratio > 0.0 ? detail::max(1, share / size) : 0};
    if ((n.best + n.representatives) * size > room && n.best > 0) --n.best;
    if ((n.best + n.representatives) * size > room) n = {};
    return n;
  }
};

/// Everything about the pages of all rows. All memory is the caller's.
struct open_pages {
  page_split split = {};
  extents extent = {};                      ///< of the text; strides below are its tokens
  std::int32_t* ranks = nullptr;            ///< [rows, tokens]: unprotected tokens; page p is
                                            ///< [p * size, (p + 1) * size) of them
  std::int32_t* counts = nullptr;           ///< [rows]: pages
  std::int32_t* representatives = nullptr;  ///< [rows]: how many of them to choose
  float* sums = nullptr;                    ///< [rows, tokens]: score of each page
  fate* fates = nullptr;                    ///< [rows, tokens]: of each page, evicted to begin with
  quota* quotas = nullptr;                  ///< [rows]: pages that are kept for their scores
  fate* marks = nullptr;                    ///< [rows, tokens]: fates of tokens, to mark halves in
  quota* halves = nullptr;                  ///< [rows]: what marks the better half, rounded down

  [[nodiscard]] KVSLIM_HD constexpr std::int32_t rank(index_t row, index_t i) const noexcept {
    return ranks[row * extent.tokens + i];
  }
  /// Writes what follows from a row's numbers of open and protected tokens.
  KVSLIM_HD void set_row(index_t row, index_t open, index_t sure, index_t count) const noexcept {
    auto const n = split.of(detail::max(0, count - sure));
    counts[row] = static_cast<std::int32_t>(open / split.size);
    representatives[row] = static_cast<std::int32_t>(n.representatives);
    quotas[row] = {.count = n.best};
    halves[row] = {.count = sure + open / 2};
  }
  /// Score of a page, in text order on every backend.
  [[nodiscard]] KVSLIM_HD float sum_of(index_t row, index_t page,
                                       float const* scores) const noexcept {
    float sum = 0.0f;
    for (index_t i = page * split.size; i < (page + 1) * split.size; ++i)
      sum += scores[rank(row, i)];
    return sum;
  }
};

/// Pages as the tokens of a text, for ops::keep_best.
struct pages_text {
  kvslim::extents extent;
  std::int32_t const* counts;

  [[nodiscard]] KVSLIM_HD constexpr kvslim::extents const& extents() const noexcept {
    return extent;
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t tokens(index_t s, index_t h) const noexcept {
    return counts[s * extent.kv_heads + h];
  }
};

struct open_pages_op {};

/// Fills `pages` (all but halves' marks and pages' fates beyond their first state) from protected
/// fates. A row whose quota holds all its tokens keeps them here and now, and has no pages.
/// Cost: one pass over fates and scores.
template <class Exec, class Text>
status make_open_pages(Exec const& exec, Text const& text, score_view scores,
                       slice<quota const> quotas, fate* fates, open_pages const& pages) {
  return implementation<open_pages_op, Exec>::run(exec, text, scores, quotas, fates, pages);
}

struct keep_pages_op {};

/// Keeps the tokens of kept pages.
template <class Exec>
status keep_pages(Exec const& exec, open_pages const& pages, fate* fates) {
  return implementation<keep_pages_op, Exec>::run(exec, pages, fates);
}

}  // namespace ops

template <host_executor Exec>
struct implementation<ops::open_pages_op, Exec> {
  template <class Text>
  static status run(Exec const& exec, Text const& text, score_view scores,
                    slice<quota const> quotas, fate* fates, ops::open_pages const& pages) {
    auto const& e = text.extents();
    exec.for_each(e.rows(), [=](index_t r) {
      index_t const n = text.tokens(r / e.kv_heads, r % e.kv_heads), begin = r * e.tokens;
      bool const all = quotas[r].count >= n;
      index_t open = 0, sure = 0;
      for (index_t t = 0; t < n; ++t) {
        if (fates[begin + t] != fate::evicted)
          ++sure;
        else if (all)
          fates[begin + t] = fate::kept;
        else
          pages.ranks[begin + open++] = static_cast<std::int32_t>(t);
        pages.marks[begin + t] = fates[begin + t];
      }
      pages.set_row(r, open, sure, quotas[r].count);
      for (index_t p = 0; p < pages.counts[r]; ++p) {
        pages.sums[begin + p] = pages.sum_of(r, p, scores.row(r));
        pages.fates[begin + p] = fate::evicted;
      }
    });
    return {};
  }
};

template <host_executor Exec>
struct implementation<ops::keep_pages_op, Exec> {
  static status run(Exec const& exec, ops::open_pages const& pages, fate* fates) {
    auto const& e = pages.extent;
    exec.for_each(e.rows(), [=](index_t r) {
      for (index_t i = 0; i < pages.counts[r] * pages.split.size; ++i)
        if (pages.fates[r * e.tokens + i / pages.split.size] == fate::kept)
          fates[r * e.tokens + pages.rank(r, i)] = fate::kept;
    });
    return {};
  }
};

KVSLIM_END_NAMESPACE
