// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// The codecs that save_compressed and attend_live compare, by name, and the stored forms that a
// reader of them knows.

#include "llama_cpp/container.hpp"

#include <kvslim/quant/centred.hpp>
#include <kvslim/quant/codec_pair.hpp>
#include <kvslim/quant/dense.hpp>
#include <kvslim/quant/gear.hpp>
#include <kvslim/quant/ggml.hpp>
#include <kvslim/quant/int_per_token.hpp>
#include <kvslim/quant/kivi.hpp>
#include <kvslim/quant/rotated.hpp>

#include <tuple>

namespace example {

template <class Codec>
struct named_codec {
  char const* name;
  Codec codec;
};
template <class Codec>
named_codec(char const*, Codec) -> named_codec<Codec>;

inline constexpr auto all_codecs = [] {
  using namespace kvslim;
  return std::tuple{
      named_codec{"f16", dense<f16>{}},
      named_codec{"int8", int_per_token<8>{}},
      named_codec{"kivi8", kivi<8>{}},
      named_codec{"gear4", gear<4>{}},
      named_codec{"kivi4", kivi<4>{}},
      named_codec{"kivi4 of 64", codec_pair{channel_key<4>{64, 64}, token_value<4>{64, 0}}},
      named_codec{"int4", int_per_token<4>{}},
      named_codec{"int4 rotated", rotated{int_per_token<4>{}}},
      named_codec{"centred4", centred<4>{}},
      named_codec{"q4_0", ggml<ggml_block::q4_0>{}},
      named_codec{"q4_0 rotated", rotated{ggml<ggml_block::q4_0>{}}},
      named_codec{"kivi2", kivi<2>{}}};
}();

/// Calls f(name, codec) for each.
template <class F>
void for_codecs(F const& f) {
  std::apply([&](auto const&... each) { (f(each.name, each.codec), ...); }, all_codecs);
}

template <class Codec>
using form_of = kvslim::stored_as<decltype(std::declval<Codec const&>().key_codec()),
                                  decltype(std::declval<Codec const&>().value_codec())>;
template <class... Codec>
stored_forms<form_of<Codec>...> forms_of(std::tuple<named_codec<Codec>...> const&);
using known_forms = decltype(forms_of(all_codecs));

}  // namespace example
