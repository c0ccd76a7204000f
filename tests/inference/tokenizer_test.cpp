// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "inference/tokenizer.hpp"

#include "support/catch.hpp"

#include <cstdio>

namespace {

/// A GGUF that holds a vocabulary and nothing else.
example::gguf vocabulary(std::string const& kind, std::vector<std::string> const& names) {
  std::vector<std::uint8_t> out;
  auto const number = [&](std::uint64_t x, int bytes) {
    for (int i = 0; i < bytes; ++i) out.push_back(static_cast<std::uint8_t>(x >> (8 * i)));
  };
  auto const string = [&](std::string const& s) {
    number(s.size(), 8);
    out.insert(out.end(), s.begin(), s.end());
  };
  number(0x46554747, 4);
  number(3, 4);
  number(0, 8);
  number(3, 8);
  string("tokenizer.ggml.model");
  number(8, 4);
  string(kind);
  string("tokenizer.ggml.bos_token_id");
  number(4, 4);
  number(1, 4);
  string("tokenizer.ggml.tokens");
  number(9, 4);
  number(8, 4);
  number(names.size(), 8);
  for (auto const& name : names) string(name);
  return example::gguf(out);
}

std::string spelled(example::tokenizer const& words, std::vector<example::index_t> const& tokens) {
  std::string out;
  for (auto const t : tokens) out += words.bytes(t);
  return out;
}

}  // namespace

TEST_CASE("without a vocabulary a token is a byte", "[tokenizer]") {
  example::tokenizer const words(
      example::gguf::open(KVSLIM_SOURCE_DIR "/examples/reference_model/kvslim-reference.gguf"));
  CHECK(words.size() == 256);
  CHECK(words.opening_token() == 0);
  CHECK(words.encode("A\xc3") == std::vector<example::index_t>{65, 0xc3});
}

TEST_CASE("a sentence-piece vocabulary takes the longest piece and falls back to bytes",
          "[tokenizer]") {
  std::vector<std::string> names{"<unk>", "<s>", "</s>"};
  for (unsigned b = 0; b < 256; ++b) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", b);
    names.push_back(name);
  }
  for (char const* piece : {"\xe2\x96\x81", "a",
                            "\xe2\x96\x81"
                            "the",
                            "\xe2\x96\x81"
                            "th",
                            "e", "\xc3\xa9"})
    names.push_back(piece);
  example::tokenizer const words(vocabulary("llama", names));
  CHECK(words.opening_token() == 1);
  CHECK(words.encode(" the a").size() == 3);  // " the", " ", "a"
  CHECK(words.encode(" the")[0] == 261);
  CHECK(words.encode("a")[0] == 260);  // the piece, not the byte token
  CHECK(words.encode("\xc3\xa9")[0] == 264);
  CHECK(words.encode("\xc3") == std::vector<example::index_t>{3 + 0xc3});
  std::string const text = "the \xc3\xa9 \n\xff the";
  CHECK(spelled(words, words.encode(text)) == text);
  CHECK(words.bytes(1).empty());
  names.erase(names.begin() + 40);
  CHECK_THROWS_AS(example::tokenizer(vocabulary("llama", names)), example::gguf_error);
}

TEST_CASE("a byte-pair vocabulary is spelled through GPT-2's stand-ins", "[tokenizer]") {
  std::vector<std::string> const names{
      "<|x|>", "<|begin|>",  "\xc4\xa0", "h",
      "i",     "\xc4\xa0hi", "\xc4\x8a"};  // U+0120 space, U+010A newline
  example::tokenizer const words(vocabulary("gpt2", names));
  CHECK(words.encode(" hi\nh ") == std::vector<example::index_t>{5, 6, 3, 2});
  CHECK(spelled(words, words.encode(" hi\nh ")) == " hi\nh ");
  CHECK_THROWS_AS(words.encode("z"), example::gguf_error);
  CHECK_THROWS_AS(example::tokenizer(vocabulary("bert", names)), example::gguf_error);
}
