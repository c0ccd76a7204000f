// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "compare/entries.hpp"

namespace example {

using namespace kvslim;

void add_quantized(std::vector<method>& list, kvslim::rope const& rotation) {
  auto const add = [&](char const* name, auto policy) {
    list.push_back(entry(name, family::quantized, [=](index_t) { return policy; }));
  };
  add("int8 per token", int_per_token<8>{});
  add("int6 per token", int_per_token<6>{});
  add("int4 per token", int_per_token<4>{});
  add("int4 per token, rotated", rotated{int_per_token<4>{}});
  add("int3 per token", int_per_token<3>{});
  add("Centred 8 bit", centred<8>{});
  add("Centred K 6, V 5 bit", centred<6, 5>{});
  add("Centred 4 bit", centred<4>{});
  add("TurboQuant 4 bit", turboquant<4>{});
  add("TurboQuant 3 bit", turboquant<3>{});
  add("TurboQuant 3 bit, inner products", turboquant<3, 3, turbo_form::inner>{});
  add("ggml q8_0", ggml<ggml_block::q8_0>{});
  add("ggml q5_1", ggml<ggml_block::q5_1>{});
  add("ggml q4_0", ggml<ggml_block::q4_0>{});
  add("fp8 per token", fp8<>{});
  add("NVFP4", fp4<fp4_block::nvfp4>{});
  add("MXFP4", fp4<fp4_block::mxfp4>{});
  add("KIVI 8 bit", kivi<8>{});
  add("KIVI 4 bit", kivi<4>{});
  add("KIVI 4 bit, keys by 16", kivi<4>{{.group = 16, .value_group = 32}});
  add("KIVI 4 bit, keys by 64", kivi<4>{{.group = 64, .value_group = 32}});
  add("KIVI 2 bit", kivi<2>{});
  add("KIVI K 8, V 4 bit", kivi<8, 4>{});
  add("KIVI K 5, V 3 bit", kivi<5, 3>{});
  add("KIVI K 3, V 5 bit", kivi<3, 5>{});
  add("GEAR 4 bit", gear<4>{});
  add("GEAR 4 bit, KCVT", gear<4>{{.kcvt = true}});
  add("GEAR-L 2 bit", gear_l<2>{});
  add("ThinK 40 %", think{});
  add("ZipCache 4 bit, one class", zipcache<4>{});
  add("MiKV 4 bit, one class", mikv<4>{});
  add("KVQuant 4 bit, levels of the prompt",
      kvquant<4, 4, codebook_from::prompt>{{.rotation = rotation}});
  add("Mustafar 50 %", mustafar<>{});
  add("Mustafar 70 %", mustafar<>{{.key_share = 0.7f, .value_share = 0.7f}});
}

}  // namespace example
