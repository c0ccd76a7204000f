// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Our own codec, 1 to 8 bits.

#include "codecs.hpp"

#include <kvslim/quant/centred.hpp>

namespace example {

namespace {

template <int KeyBits, int ValueBits = KeyBits>
void add_bits(table<codec_method>& all, char const* name, char const* what) {
  add_codec<kvslim::centred<KeyBits, ValueBits>>(all, name, "-", what, [](auto& p) {
    return options{{"residual", &p.opt.residual, "newest tokens kept exact"},
                   {"reference", &p.opt.reference, "largest magnitude that an empty prompt had"},
                   {"seed", &p.opt.seed, "of the channels' signs; 0: none changes"}};
  });
}

}  // namespace

void add_centred(table<codec_method>& all) {
  add_bits<8>(all, "centred8", "less the mean, rotated, 8 bits");
  add_bits<6, 5>(all, "centred6_5", "K in 6, V in 5 bits");
  add_bits<4>(all, "centred4", "4 bits");
  add_bits<3>(all, "centred3", "3 bits");
  add_bits<2>(all, "centred2", "2 bits");
  add_bits<1>(all, "centred1", "1 bit");
}

}  // namespace example
