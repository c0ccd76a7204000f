// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// CSKV: projections of a layer's heads that are loaded, beside an exact window.

#include "codecs.hpp"

#include <kvslim/quant/cskv.hpp>

namespace example {

void add_cskv(table<codec_method>& all) {
  add_codec<kvslim::cskv<>>(
      all, "cskv", "arXiv:2409.10593", "a layer's heads projected by key_basis and value_basis",
      [](auto& p) {
        return options{{"layers", &p.opt.layers, "in the tables"},
                       {"kv_heads", &p.opt.kv_heads, "of a layer"},
                       {"key_rank", &p.opt.key_rank, "numbers of a token's keys, of all heads"},
                       {"value_rank", &p.opt.value_rank, "of its values"},
                       {"window", &p.opt.window, "newest tokens kept exact (authors)"},
                       {"rope_base", &p.opt.rotation.base, "of the keys' rotation"},
                       {"rope_dims", &p.opt.rotation.dims, "rotated channels; 0: all"}};
      });
}

}  // namespace example
