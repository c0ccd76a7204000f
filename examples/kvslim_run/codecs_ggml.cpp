// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// llama.cpp's types.

#include "codecs.hpp"

#include <kvslim/quant/ggml.hpp>

namespace example {

namespace {

template <kvslim::ggml_block Key, kvslim::ggml_block Value = Key>
void add_blocks(table<codec_method>& all, char const* name, char const* what) {
  add_codec<kvslim::ggml<Key, Value>>(all, name, "ggml-org/ggml", what, residual_option);
}

}  // namespace

void add_ggml(table<codec_method>& all) {
  using enum kvslim::ggml_block;
  add_blocks<q8_0>(all, "ggml_q8_0", "8.5 bits");
  add_blocks<q5_1>(all, "ggml_q5_1", "6 bits");
  add_blocks<q5_0>(all, "ggml_q5_0", "5.5 bits");
  add_blocks<q4_1>(all, "ggml_q4_1", "5 bits");
  add_blocks<q4_0>(all, "ggml_q4_0", "4.5 bits");
  add_blocks<q8_0, q4_0>(all, "ggml_q8_0_q4_0", "K in 8.5, V in 4.5 bits");
}

}  // namespace example
