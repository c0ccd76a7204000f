// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Text to tokens and back, from what a GGUF says of its vocabulary: none (a token is a byte, token
// 0 opens), sentence-piece ("llama") or byte-pair ("gpt2").

#include "gguf.hpp"

#include <kvslim/core/config.hpp>

#include <string_view>
#include <unordered_map>

namespace example {

using kvslim::index_t;

/// Takes the longest token that matches, again and again. That is a valid encoding of every text,
/// though not always the one that the model's own merge rules give, so bits per byte come out
/// slightly high on models with merges; every method pays the same.
class tokenizer {
 public:
  /// Throws gguf_error for a vocabulary of another kind or one that cannot spell every byte.
  explicit tokenizer(gguf const& file);
  tokenizer(tokenizer const&) = delete;  // its index points into its own strings
  tokenizer& operator=(tokenizer const&) = delete;

  [[nodiscard]] index_t size() const { return static_cast<index_t>(bytes_.size()); }
  [[nodiscard]] index_t opening_token() const { return opening_; }
  [[nodiscard]] std::vector<index_t> encode(std::string_view text) const;
  /// The bytes that a token stands for; control tokens stand for none.
  [[nodiscard]] std::string const& bytes(index_t token) const {
    return bytes_[static_cast<std::size_t>(token)];
  }

 private:
  std::vector<std::string> bytes_;
  std::unordered_map<std::string_view, index_t> tokens_;
  std::size_t longest_ = 1;
  index_t opening_ = 0;
};

}  // namespace example
