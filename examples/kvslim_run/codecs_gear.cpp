// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// GEAR and GEAR-L, by bits.

#include "codecs.hpp"

#include <kvslim/quant/gear.hpp>

namespace example {

namespace {

template <class Policy>
void add_gear_of(table<codec_method>& all, char const* name, char const* what) {
  add_codec<Policy>(all, name, "arXiv:2403.05527", what, [](auto& p) {
    options out{
        {"group", &p.opt.group, "tokens per key group, channels per value group (authors)"},
        {"residual", &p.opt.residual, "tokens that are coded together (authors)"},
        {"rank", &p.opt.rank, "directions that the prompt shares (authors)"},
        {"grown_rank", &p.opt.grown_rank, "directions of a block coded later (authors)"},
        {"rounds", &p.opt.rounds, "of power iteration (authors)"},
        {"value_group", &p.opt.value_group, "channels per value group; 0: as group, of kcvt all"}};
    if constexpr (requires { p.opt.outliers; }) {
      out.push_back({"outliers", &p.opt.outliers, "share of values kept aside (authors)"});
      out.push_back(
          {"kcvt", &p.opt.kcvt, "a range for each channel of the prompt, each token of V"});
    }
    return out;
  });
}

}  // namespace

void add_gear(table<codec_method>& all) {
  add_gear_of<kvslim::gear<4>>(all, "gear4",
                               "4 bits, outliers and what is missed in few directions");
  add_gear_of<kvslim::gear<2>>(all, "gear2", "2 bits");
  add_gear_of<kvslim::gear_l<4>>(all, "gear_l4", "4 bits, without outliers (GEAR-L)");
  add_gear_of<kvslim::gear_l<2>>(all, "gear_l2", "2 bits, without outliers");
}

}  // namespace example
