// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "tokenizer.hpp"

#include <algorithm>
#include <cstdio>

namespace example {

namespace {

std::string utf8(unsigned code) {  // below 0x800, which is all that is needed
  if (code < 0x80) return {static_cast<char>(code)};
  return {static_cast<char>(0xc0 | (code >> 6)), static_cast<char>(0x80 | (code & 63))};
}

/// GPT-2's printable stand-in for every byte, and back.
std::unordered_map<std::string, char> stand_ins() {
  std::unordered_map<std::string, char> out;
  unsigned next = 256;
  for (unsigned b = 0; b < 256; ++b) {
    bool const itself = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    out.emplace(utf8(itself ? b : next++), static_cast<char>(b));
  }
  return out;
}

/// What a sentence-piece token spells: <0xNN> is a byte, U+2581 a space.
std::string spelled_by_piece(std::string const& name) {
  unsigned byte = 0;
  if (name.size() == 6 && std::sscanf(name.c_str(), "<0x%02X>", &byte) == 1)
    return {static_cast<char>(byte)};
  if (name.size() > 2 && name.front() == '<' && name.back() == '>') return {};  // <s>, <unk>, ...
  std::string out;
  for (std::size_t i = 0; i < name.size(); ++i) {
    bool const space = name.compare(i, 3, "\xe2\x96\x81") == 0;
    out += space ? ' ' : name[i];
    if (space) i += 2;
  }
  return out;
}

/// What a byte-pair token spells; nothing if a character is no stand-in (special tokens).
std::string spelled_by_pair(std::string const& name,
                            std::unordered_map<std::string, char> const& table) {
  if (name.starts_with("<|") && name.ends_with("|>")) return {};
  std::string out;
  for (std::size_t i = 0; i < name.size();) {
    std::size_t const n = (static_cast<unsigned char>(name[i]) & 0x80) == 0 ? 1 : 2;
    auto const found = table.find(name.substr(i, n));
    if (found == table.end()) return {};
    out += found->second;
    i += n;
  }
  return out;
}

}  // namespace

tokenizer::tokenizer(gguf const& file) {
  auto const& names = file.strings("tokenizer.ggml.tokens");
  auto const kind = file.text("tokenizer.ggml.model");
  if (names.empty()) {
    if (!kind.empty() && kind != "no_vocab") throw gguf_error("GGUF: the vocabulary is empty");
    for (unsigned b = 0; b < 256; ++b) bytes_.emplace_back(1, static_cast<char>(b));
  } else if (kind == "llama") {
    for (auto const& name : names) bytes_.push_back(spelled_by_piece(name));
  } else if (kind == "gpt2") {
    auto const table = stand_ins();
    for (auto const& name : names) bytes_.push_back(spelled_by_pair(name, table));
  } else {
    throw gguf_error("GGUF: tokenizer '" + kind +
                     "' is not read: it must be llama (sentence-piece), gpt2 (byte-pair) or none");
  }
  double const opening = file.number("tokenizer.ggml.bos_token_id", 0);
  if (!(opening >= 0 && opening < static_cast<double>(bytes_.size())))
    throw gguf_error("GGUF: the opening token is not in the vocabulary");
  opening_ = static_cast<index_t>(opening);
  // A piece is preferred to the byte token that spells the same.
  for (std::size_t i = bytes_.size(); i-- > 0;)
    if (!bytes_[i].empty() &&
        (names.empty() || names[i].size() != 6 || names[i].rfind("<0x", 0) != 0))
      tokens_[bytes_[i]] = static_cast<index_t>(i);
  for (std::size_t i = 0; i < bytes_.size(); ++i) {
    if (!bytes_[i].empty()) tokens_.emplace(bytes_[i], static_cast<index_t>(i));
    longest_ = std::max(longest_, bytes_[i].size());
  }
  longest_ = std::min<std::size_t>(longest_, 64);
  for (unsigned b = 0; b < 256; ++b)
    if (char const c = static_cast<char>(b);
        !tokens_.contains(std::string_view(&c, 1)) && kind != "gpt2")
      throw gguf_error("GGUF: the vocabulary cannot spell every byte");
}

std::vector<index_t> tokenizer::encode(std::string_view text) const {
  std::vector<index_t> out;
  for (std::size_t i = 0; i < text.size();) {
    std::size_t n = std::min(longest_, text.size() - i);
    auto found = tokens_.find(text.substr(i, n));
    while (found == tokens_.end() && n > 1) found = tokens_.find(text.substr(i, --n));
    if (found == tokens_.end())
      throw gguf_error("GGUF: the vocabulary cannot spell every byte of the text");
    out.push_back(found->second);
    i += n;
  }
  return out;
}

}  // namespace example
