// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// MiniCache: sequences are layers here, or KV heads share.

#include "codecs.hpp"

#include <kvslim/merge/minicache.hpp>

namespace example {

void add_minicache(table<codec_method>& all) {
  add_codec<kvslim::minicache<>>(
      all, "minicache", "arXiv:2405.14366", "two layers share directions and keep lengths",
      [](auto& p) {
        return options{
            {"retained", &p.opt.retained, "part of a block that stays exact (paper)"},
            {"depth", &p.opt.depth, "weight of the second row's direction (paper)"},
            {"block", &p.opt.block, "tokens that are coded together"},
            {"sequences", &p.opt.rows.sequences, "2: neighbouring sequences are layers that share"},
            {"kv_heads", &p.opt.rows.kv_heads, "2, with sequences 1: neighbouring heads share"}};
      });
}

}  // namespace example
