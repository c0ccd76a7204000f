// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Fewer channels: chosen once a head, or in every token.

#include "codecs.hpp"

#include <kvslim/prune/mustafar.hpp>
#include <kvslim/prune/think.hpp>
#include <kvslim/quant/kivi.hpp>

namespace example {

namespace {

options think_table(kvslim::think_options& o) {
  return {{"share", &o.share, "of K's channels that is left out (authors)"},
          {"recent", &o.recent, "newest tokens whose keys stay whole (authors)"},
          {"multiple", &o.multiple, "of channels that stay"}};
}

}  // namespace

void add_pruned(table<codec_method>& all) {
  using kvslim::think, kvslim::kivi;
  add_codec<kvslim::mustafar<>>(
      all, "mustafar", "arXiv:2505.22913", "the largest channels of every token, and a bitmap",
      [](auto& p) {
        return options{{"key_share", &p.opt.key_share, "of a token's channels left out of K"},
                       {"value_share", &p.opt.value_share, "of V"},
                       {"residual", &p.opt.residual, "newest tokens kept exact (authors)"}};
      });
  add_codec<think<>>(all, "think", "arXiv:2407.21018", "K without the channels shortest in q and K",
                     [](auto& p) { return think_table(p.opt); });
  add_codec<think<kivi<2>>>(
      all, "think_kivi2", "arXiv:2407.21018", "likewise, then KIVI's 2 bits", [](auto& p) {
        p.opt.recent = 0;
        p.opt.multiple = 4;
        auto out = think_table(p.opt);
        out.push_back(
            {"residual", &p.quantizer.opt.residual, "tokens coded together, exact until then"});
        return out;
      });
}

}  // namespace example
