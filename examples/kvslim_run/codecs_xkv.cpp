// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// xKV: rows in a space of low rank that is fitted to them.

#include "codecs.hpp"

#include <kvslim/quant/xkv.hpp>

namespace example {

void add_xkv(table<codec_method>& all) {
  add_codec<kvslim::xkv<>>(
      all, "xkv", "arXiv:2503.18893", "coordinates in few directions that a group of rows shares",
      [](auto& p) {
        p.opt.rows = {1, 1};
        p.opt.key_rank = p.opt.value_rank = 32;
        return options{{"sequences", &p.opt.rows.sequences, "layers of a group: so many sequences"},
                       {"kv_heads", &p.opt.rows.kv_heads, "KV heads of a group"},
                       {"key_rank", &p.opt.key_rank, "numbers of a token's keys, for the group"},
                       {"value_rank", &p.opt.value_rank, "of its values"},
                       {"residual", &p.opt.residual, "newest tokens kept exact"},
                       {"rounds", &p.opt.rounds, "of subspace iteration"}};
      });
}

}  // namespace example
