// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// KIVI, by the bits of K and of V.

#include "codecs.hpp"

#include <kvslim/quant/kivi.hpp>

namespace example {

namespace {

template <int KeyBits, int ValueBits = KeyBits>
void add_bits(table<codec_method>& all, char const* name, char const* what) {
  add_codec<kvslim::kivi<KeyBits, ValueBits>>(all, name, "arXiv:2402.02750", what, [](auto& p) {
    return options{
        {"group", &p.opt.group, "tokens per key group, channels per value group (paper)"},
        {"residual", &p.opt.residual, "newest tokens kept exact (paper)"},
        {"value_group", &p.opt.value_group, "channels per value group; 0: as group"},
        {"rounding", choice(p.opt.rounding, {"precise", "authors"}), "of codes"}};
  });
}

}  // namespace

void add_kivi(table<codec_method>& all) {
  add_bits<8>(all, "kivi8", "8 bits: K per channel, V per token, newest exact");
  add_bits<4>(all, "kivi4", "4 bits");
  add_bits<2>(all, "kivi2", "2 bits");
  add_bits<3>(all, "kivi3", "3 bits");
  add_bits<4, 2>(all, "kivi4_2", "K in 4, V in 2 bits");
}

}  // namespace example
