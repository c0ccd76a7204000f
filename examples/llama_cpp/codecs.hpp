// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// The codecs that save_compressed writes, by name, and the stored forms that it reads.

#include "llama_cpp/container.hpp"

#include <kvslim/quant/codec_pair.hpp>
#include <kvslim/quant/dense.hpp>
#include <kvslim/quant/ggml.hpp>
#include <kvslim/quant/int_per_token.hpp>
#include <kvslim/quant/kivi.hpp>

namespace example {

/// Calls f(name, codec) for each.
template <class F>
void for_codecs(F const& f) {
  using namespace kvslim;
  f("f16", dense<f16>{});
  f("int8", int_per_token<8>{});
  f("kivi8", kivi<8>{});
  f("kivi4", kivi<4>{});
  f("int4", int_per_token<4>{});
  f("q4_0", ggml<ggml_block::q4_0>{});
  f("kivi4 of 64", codec_pair{channel_key<4>{64, 64}, token_value<4>{64, 0}});
  f("kivi4 of 128", codec_pair{channel_key<4>{128, 128}, token_value<4>{64, 0}});
  f("kivi2", kivi<2>{});
}

template <class Key, class Value>
using form = kvslim::stored_as<Key, Value>;
template <int Bits>
using kivi_form = form<kvslim::channel_key<Bits>, kvslim::token_value<Bits>>;
template <int Bits>
using token_form = form<kvslim::token_key<Bits>, kvslim::token_value<Bits>>;
using known_forms = stored_forms<
    form<kvslim::dense_key<kvslim::f16>, kvslim::dense_value<kvslim::f16>>, token_form<8>,
    token_form<4>, kivi_form<8>, kivi_form<4>, kivi_form<2>,
    form<kvslim::ggml_rows<kvslim::ggml_block::q4_0>, kvslim::ggml_rows<kvslim::ggml_block::q4_0>>>;

}  // namespace example
