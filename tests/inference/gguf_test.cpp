// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "inference/gguf.hpp"

#include "support/catch.hpp"

#include <fstream>
#include <iterator>

namespace {

std::vector<std::uint8_t> reference_model() {
  std::ifstream in(KVSLIM_SOURCE_DIR "/examples/reference_model/kvslim-reference.gguf",
                   std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

TEST_CASE("a GGUF cut anywhere is a clear error", "[gguf]") {
  auto const whole = reference_model();
  REQUIRE(whole.size() > 100000);
  CHECK_NOTHROW(example::gguf(whole));
  std::size_t refused = 0;
  for (std::size_t n = 0; n < whole.size(); n += n < 4000 ? 13 : 200001) {
    std::vector<std::uint8_t> const cut(whole.begin(),
                                        whole.begin() + static_cast<std::ptrdiff_t>(n));
    try {
      example::gguf const file(cut);
      static_cast<void>(file.tensor("blk.5.ffn_down.weight", 192, 512));
    } catch (example::gguf_error const& e) {
      CHECK(std::string(e.what()).rfind("GGUF: ", 0) == 0);
      ++refused;
    }
  }
  CHECK(refused > 300);
}

TEST_CASE("damaged GGUF headers never crash", "[gguf]") {
  auto whole = reference_model();
  whole.resize(8192);
  std::uint32_t random = 1;
  for (int i = 0; i < 3000; ++i) {
    auto damaged = whole;
    for (int j = 0; j < 4; ++j) {
      random = random * 1664525u + 1013904223u;
      damaged[(random >> 8) % 4096] = static_cast<std::uint8_t>(random >> 24);
    }
    try {
      example::gguf const file(damaged);
      static_cast<void>(file.tensor("token_embd.weight", 256, 192));
    } catch (example::gguf_error const&) {
    }
  }
  SUCCEED();
}

TEST_CASE("a directory and a missing file are refused, whatever their size says", "[gguf]") {
  CHECK_THROWS_AS(example::gguf::open("."), example::gguf_error);
  CHECK_THROWS_AS(example::gguf::open("no such file.gguf"), example::gguf_error);
}
