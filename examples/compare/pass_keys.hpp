// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/config.hpp>

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string>
#include <vector>

namespace example {

using kvslim::index_t;

/// Tokens that an answer may take: a space and five digits, one by one.
inline constexpr std::ptrdiff_t answer_tokens = 6;

/// A context with one fact in it, the question, and the answer.
struct pass_key {
  std::vector<index_t> context, question;
  std::string answer;
};

/// `count` questions whose contexts and questions are `length` tokens together; their facts lie at
/// every depth.
template <class Tokenizer>
std::vector<pass_key> pass_keys(Tokenizer const& words, std::vector<index_t> const& filler,
                                index_t length, int count) {
  // Names that training never used (crc32 of the name is 0 mod 8 in train.py).
  static char const* const names[] = {"gukozor", "guvipel", "seral",   "vanik",   "kutol",
                                      "tikotin", "lapekon", "fufizin", "vokagon", "galenil",
                                      "zogur",   "difol",   "tarek",   "lekel"};
  std::vector<pass_key> out;
  std::uint32_t random = 20240711;
  for (int i = 0; i < count; ++i) {
    std::string digits;
    for (int d = 0; d < 5; ++d) {
      random = random * 1664525u + 1013904223u;
      digits += static_cast<char>('0' + (random >> 16) % 10);
    }
    std::string const name = names[static_cast<std::size_t>(i) % std::size(names)];
    auto const question = words.encode("\nRecall " + name);
    auto const fact = words.encode("\nRemember " + name + " " + digits + ".\n");
    auto const room = length - 1 - answer_tokens - std::ssize(question) - std::ssize(fact);
    auto const from = filler.begin() + static_cast<index_t>(i) * 1777 % (std::ssize(filler) - room);
    auto const depth = room * (2 * i + 1) / (2 * count);
    std::vector<index_t> context{words.opening_token()};
    context.insert(context.end(), from, from + depth);
    context.insert(context.end(), fact.begin(), fact.end());
    context.insert(context.end(), from + depth, from + room);
    out.push_back({context, question, digits});
  }
  return out;
}

}  // namespace example
