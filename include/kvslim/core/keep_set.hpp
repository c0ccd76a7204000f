// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/slice.hpp>
#include <kvslim/core/text.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Who folds into whom, by (row, rank) with `tokens` ranks a row; of an assigning merger.
struct folding {
  std::int32_t* target = nullptr;   ///< rank of the kept token joined, its own: kept; -1: evicted
  float* strength = nullptr;        ///< what the merger's share() is told of a source
  std::int32_t* begins = nullptr;   ///< [rows, tokens + 1]: where a target's sources begin
  std::int32_t* sources = nullptr;  ///< ranks by target, each target's in text order
  /// [rows, row_bytes()], of a merger that remembers: what it knew of a row, then what it knows.
  /// Null: it remembers nothing.
  std::byte* memory = nullptr;
};

/// What stays, row after row: row r keeps entries [begins[r], begins[r + 1]), in text order. Filled
/// by select() in memory of the caller's, read by encode() and compact(); an engine's own set of
/// cells is as good (then `begins` and `cells` are enough).
struct keep_set {
  std::int64_t* begins = nullptr;  ///< [rows + 1]
  std::int32_t* cells = nullptr;   ///< [room]: where the kept tokens lie in the view
  std::int32_t* ranks = nullptr;   ///< [room]: their places in text order; null: not known
  index_t room = 0;                ///< entries that cells and ranks have memory for
  std::int32_t* merged = nullptr;  ///< [rows, tokens], with a merger: rank of the token each joins
  folding fold = {};               ///< with a merger that assigns; its target is `merged`
  std::byte* columns = nullptr;    ///< [room] records, with a scorer that observes
  text_order order = {};           ///< what ranks refer to
  std::int32_t* order_cells = nullptr;   ///< [rows, tokens] for the order to be written to
  std::int32_t* order_counts = nullptr;  ///< [rows]

  [[nodiscard]] KVSLIM_HD constexpr index_t count(index_t row) const noexcept {
    return begins[row + 1] - begins[row];
  }
};

/// What a scorer may state of a row's attention beside its tokens' scores.
struct row_statistics {
  float entropy = 0.0f;   ///< sum of -p log p over what its queries pay
  float variance = 0.0f;  ///< sum over tokens of how much that varies from query to query
};

/// Scores of every row by rank: row r = sequence * kv_heads + kv_head, `tokens` floats each.
struct score_view {
  float* data = nullptr;
  index_t tokens = 0;
  row_statistics* statistics = nullptr;  ///< [rows], or null: nobody asks

  [[nodiscard]] KVSLIM_HD constexpr float* row(index_t r) const noexcept {
    return data + r * tokens;
  }
};

/// Which tokens of a row may go at all: of all but pinned ones, the first `sinks` and the newest
/// `recent`, the `open` that their scorer doubts least.
struct gate {
  index_t open = 0;
  index_t sinks = 0;
  index_t recent = 0;
};

/// What a keep rule and a merger read and write: the fate of a token.
enum class fate : std::uint8_t {
  evicted = 0,
  kept = 1,
  sure = 2,  ///< kept by protection (pinned, sink, recent): never merged away
};

/// Widths of the rows that a merger makes.
struct merge_width {
  index_t key = 0, value = 0;
};

/// What a merger is told of one member of a run.
struct fold_member {
  float distance2 = 0.0f;       ///< squared distance of its key from the kept token's
  float mean_distance2 = 0.0f;  ///< mean of that over the run
  float bias = 0.0f;            ///< its own logit bias
  float sum = 0.0f;             ///< of the merger's fact(member) over the run
  index_t members = 1;
};

/// How much a member weighs in the merged key and value; the library makes weights add up to one.
struct fold_weights {
  float key = 1.0f, value = 1.0f;
};

/// What one source gives to the token that it joins, of strength s: key and value of its own rows;
/// `target` of the joined token's, besides the one that it has; `count` of what the sum is divided
/// by, which begins at one; `mass` of its own mass.
struct fold_share {
  float key = 1.0f, value = 1.0f, target = 0.0f, count = 1.0f, mass = 1.0f;
};

/// What one row keeps. The first bound that is met ends the row: `count` tokens in all, the last
/// token whose score is at least `least`, or the token with which `cover` of the sum of the row's
/// positive scores is kept. Pinned tokens, `sinks` first and `recent` newest tokens come before
/// scores, in this order, and count.
struct quota {
  index_t count = 0;
  index_t sinks = 0;
  index_t recent = 0;
  float least = -__builtin_inff();
  float cover = 0.0f;  ///< in (0, 1]; 0: no bound
};

/// What allocate is told of one row of its group.
struct row_facts {
  index_t row = 0;
  index_t tokens = 0;   ///< held
  index_t recent = 0;   ///< newest ones that the scorer protects (its window)
  index_t winners = 0;  ///< seats won in the contest
  row_statistics stated = {};
};

/// A contest among the rows of a group, held before allocate: of all their scores the `seats` best
/// win, after each row's `sure` best have been seated. Tokens that are kept anyway take no part:
/// the first `sinks` and the newest `recent`, the scorer's window at least.
struct contest {
  index_t seats = 0;
  index_t sure = 0;
  index_t sinks = 0;
  index_t recent = 0;

  /// Ranks [begin, end) of a row take part.
  [[nodiscard]] KVSLIM_HD constexpr index_t begin(row_facts const& f) const noexcept {
    return detail::min(sinks, f.tokens);
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t end(row_facts const& f) const noexcept {
    return detail::max(begin(f), f.tokens - detail::max(recent, f.recent));
  }
};

KVSLIM_END_NAMESPACE
