// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// Columns: what a scorer remembers of every token while the cache lives. A column is a trivially
/// copyable record of 4-byte words that moves with its token, is serialized and counted.

#include <kvslim/core/config.hpp>

#include <type_traits>

KVSLIM_BEGIN_NAMESPACE

struct no_column {};

/// Where and when something happens to a token.
struct place {
  index_t row = 0;            ///< sequence * kv_heads + kv_head
  std::int32_t position = 0;  ///< of the token
  std::int32_t now = 0;       ///< of the query that looks at it, or of the newest token
  index_t visible = 0;        ///< tokens that this query sees
  bool prompt = false;        ///< the query is one of a prompt that is being compressed
};

/// How several numbers (of the query heads of a KV head, or of the rows of a group) become one.
enum class reduce : std::uint8_t { mean, sum, maximum };

/// Records of every (row, rank), as select() makes them.
template <class Column>
struct columns_by_rank {
  Column const* data = nullptr;
  index_t tokens = 0;

  [[nodiscard]] KVSLIM_HD constexpr Column operator()(index_t row, index_t rank,
                                                      index_t) const noexcept {
    if constexpr (std::is_empty_v<Column>)
      return {};
    else
      return data[row * tokens + rank];
  }
};

namespace detail {

template <class Column>
inline constexpr index_t column_bytes = std::is_empty_v<Column>
                                            ? 0
                                            : static_cast<index_t>(sizeof(Column));
inline constexpr index_t most_column_bytes = 32;

/// Running reduction of `count` numbers.
[[nodiscard]] KVSLIM_HD constexpr float reduce_step(reduce how, float so_far, float x) noexcept {
  return how == reduce::maximum ? (x > so_far ? x : so_far) : so_far + x;
}
[[nodiscard]] KVSLIM_HD constexpr float reduce_end(reduce how, float sum, index_t count) noexcept {
  return how == reduce::mean ? sum / static_cast<float>(count) : sum;
}

}  // namespace detail

KVSLIM_END_NAMESPACE
