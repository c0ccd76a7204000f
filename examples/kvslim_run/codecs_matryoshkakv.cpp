// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// MatryoshkaKV: the first coordinates of each head, turned by matrices that are loaded.

#include "codecs.hpp"

#include <kvslim/quant/matryoshkakv.hpp>

namespace example {

void add_matryoshkakv(table<codec_method>& all) {
  add_codec<kvslim::matryoshkakv<>>(
      all, "matryoshkakv", "arXiv:2410.14731", "heads turned by key_basis and value_basis",
      [](auto& p) {
        return options{{"layers", &p.opt.layers, "in the tables"},
                       {"kv_heads", &p.opt.kv_heads, "of a layer"},
                       {"key_rank", &p.opt.key_rank, "numbers of a token's key, for each head"},
                       {"value_rank", &p.opt.value_rank, "of its value"},
                       {"residual", &p.opt.residual, "newest tokens kept exact"}};
      });
}

}  // namespace example
