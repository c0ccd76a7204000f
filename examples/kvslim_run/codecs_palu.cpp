// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Palu: latents of groups of heads by factors that are loaded, as they are or in codes.

#include "codecs.hpp"

#include <kvslim/quant/palu.hpp>

namespace example {

namespace {

template <int Bits>
void add_palu_of(table<codec_method>& all, char const* name, char const* what) {
  add_codec<kvslim::palu<Bits>>(all, name, "arXiv:2407.21118", what, [](auto& p) {
    return options{{"layers", &p.opt.layers, "in the tables"},
                   {"kv_heads", &p.opt.kv_heads, "of a layer"},
                   {"heads", &p.opt.heads, "that share latents"},
                   {"key_rank", &p.opt.key_rank, "numbers of a token's keys, for a group of heads"},
                   {"value_rank", &p.opt.value_rank, "of its values"},
                   {"residual", &p.opt.residual, "newest tokens kept exact"},
                   {"rope_base", &p.opt.rotation.base, "of the keys' rotation"},
                   {"rope_dims", &p.opt.rotation.dims, "rotated channels; 0: all"}};
  });
}

}  // namespace

void add_palu(table<codec_method>& all) {
  add_palu_of<16>(all, "palu", "groups of heads projected by key_basis and value_basis");
  add_palu_of<4>(all, "palu_4", "likewise, latents in 4 bits");
}

}  // namespace example
