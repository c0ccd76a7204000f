// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/column.hpp>
#include <kvslim/core/text.hpp>

KVSLIM_BEGIN_NAMESPACE

/// What a token scorer is given: one token of one KV head.
template <class Text, class Column = no_column>
class token_ref {
 public:
  KVSLIM_HD constexpr token_ref(Text const& text, index_t sequence, index_t kv_head, index_t rank,
                                Column const& column = {}) noexcept
      : text_(text), sequence_(sequence), kv_head_(kv_head), rank_(rank), column_(column) {}

  /// Channels as floats: `for (float x : token.key())`.
  [[nodiscard]] KVSLIM_HD constexpr auto key() const noexcept {
    return text_.key(sequence_, kv_head_, rank_);
  }
  [[nodiscard]] KVSLIM_HD constexpr auto value() const noexcept {
    return text_.value(sequence_, kv_head_, rank_);
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t sequence() const noexcept { return sequence_; }
  [[nodiscard]] KVSLIM_HD constexpr index_t kv_head() const noexcept { return kv_head_; }
  /// Place among the held tokens in text order, 0 to tokens() - 1.
  [[nodiscard]] KVSLIM_HD constexpr index_t rank() const noexcept { return rank_; }
  [[nodiscard]] KVSLIM_HD constexpr index_t tokens() const noexcept {
    return text_.tokens(sequence_, kv_head_);
  }
  /// Logical position in the text; after evictions it runs ahead of rank().
  [[nodiscard]] KVSLIM_HD constexpr std::int32_t position() const noexcept {
    return text_.position(sequence_, kv_head_, rank_);
  }
  /// Position of the newest held token.
  [[nodiscard]] KVSLIM_HD constexpr std::int32_t now() const noexcept {
    return text_.next_position(sequence_, kv_head_) - 1;
  }
  /// What the scorer has observed of this token.
  [[nodiscard]] KVSLIM_HD constexpr Column const& column() const noexcept { return column_; }

 private:
  Text const& text_;
  index_t sequence_, kv_head_, rank_;
  Column column_;
};

KVSLIM_END_NAMESPACE
