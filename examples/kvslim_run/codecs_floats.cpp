// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Floats of 8 and of 4 bits with scales.

#include "codecs.hpp"

#include <kvslim/quant/fp4.hpp>
#include <kvslim/quant/fp8.hpp>

namespace example {

namespace {

template <class Element>
void add_eight(table<codec_method>& all, char const* name, char const* what) {
  add_codec<kvslim::fp8<Element>>(all, name, "vllm-project/vllm", what, [](auto& p) {
    return options{{"residual", &p.opt.residual, "newest tokens kept exact"},
                   {"group", &p.opt.group, "channels that share a scale; 0: all of a token's"},
                   {"key_scale", &p.opt.key_scale, "of all keys; 0: each token its own"},
                   {"value_scale", &p.opt.value_scale, "of all values; 0: each token its own"}};
  });
}

template <kvslim::fp4_block Block>
void add_four(table<codec_method>& all, char const* name, char const* what) {
  add_codec<kvslim::fp4<Block>>(all, name, "ggml-org/ggml", what, [](auto& p) {
    options list{{"residual", &p.opt.residual, "newest tokens kept exact"},
                 {"rounding", choice(p.opt.rounding, {"ggml", "even"}), "of ties"}};
    if (Block == kvslim::fp4_block::nvfp4) {
      list.push_back({"key_scale", &p.opt.key_scale, "of all keys"});
      list.push_back({"value_scale", &p.opt.value_scale, "of all values"});
    }
    return list;
  });
}

}  // namespace

void add_floats(table<codec_method>& all) {
  add_eight<kvslim::e4m3>(all, "fp8_e4m3", "8-bit floats, a scale for each token");
  add_eight<kvslim::e5m2>(all, "fp8_e5m2", "the same with fewer digits and more range");
  add_four<kvslim::fp4_block::mxfp4>(all, "fp4_mxfp4", "4-bit floats, 4.25 bits");
  add_four<kvslim::fp4_block::nvfp4>(all, "fp4_nvfp4", "4-bit floats, 4.5 bits");
}

}  // namespace example
