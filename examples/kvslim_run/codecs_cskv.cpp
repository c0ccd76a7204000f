// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// CSKV: projections of a layer's heads that are loaded, beside an exact window.

#include "codecs.hpp"

#include <kvslim/quant/cskv.hpp>

namespace example {

namespace {

template <int Bits>
void add_cskv_of(table<codec_method>& all, char const* name, char const* what) {
  add_codec<kvslim::cskv<kvslim::f16, Bits>>(all, name, "arXiv:2409.10593", what, [](auto& p) {
    return options{{"layers", &p.opt.layers, "in the tables"},
                   {"kv_heads", &p.opt.kv_heads, "of a layer"},
                   {"key_rank", &p.opt.key_rank, "numbers of a token's keys, of all heads"},
                   {"value_rank", &p.opt.value_rank, "of its values"},
                   {"window", &p.opt.window, "newest tokens kept exact (authors)"},
                   {"rope_base", &p.opt.rotation.base, "of the keys' rotation"},
                   {"rope_dims", &p.opt.rotation.dims, "rotated channels; 0: all"}};
  });
}

}  // namespace

void add_cskv(table<codec_method>& all) {
  add_cskv_of<16>(all, "cskv", "a layer's heads projected by key_basis and value_basis");
  add_cskv_of<4>(all, "cskv_4", "likewise by factors, latents in 4 bits");
}

}  // namespace example
