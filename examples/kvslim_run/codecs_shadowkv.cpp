// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// ShadowKV: a layer's keys in few directions of the prompt, values exact.

#include "codecs.hpp"

#include <kvslim/quant/shadowkv.hpp>

namespace example {

void add_shadowkv(table<codec_method>& all) {
  add_codec<kvslim::shadowkv<>>(
      all, "shadowkv", "arXiv:2410.21465", "a layer's keys in few directions, values as bf16",
      [](auto& p) {
        p.opt.kv_heads = 1;
        p.opt.rank = 32;
        return options{{"kv_heads", &p.opt.kv_heads, "whose keys share directions"},
                       {"rank", &p.opt.rank, "numbers of a token's keys, of all these heads"},
                       {"local", &p.opt.local, "newest keys kept exact (authors)"},
                       {"rounds", &p.opt.rounds, "of subspace iteration"},
                       {"rope_base", &p.opt.rotation.base, "of the keys' rotation"},
                       {"rope_dims", &p.opt.rotation.dims, "rotated channels; 0: all"}};
      });
}

}  // namespace example
