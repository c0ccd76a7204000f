// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// TurboQuant, both forms.

#include "codecs.hpp"

#include <kvslim/quant/turboquant.hpp>

namespace example {

namespace {

template <int Bits, kvslim::turbo_form Form = kvslim::turbo_form::mse>
void add_bits(table<codec_method>& all, char const* name, char const* what) {
  add_codec<kvslim::turboquant<Bits, Bits, Form>>(all, name, "arXiv:2504.19874", what, [](auto& p) {
    return options{
        {"residual", &p.opt.residual, "newest tokens kept exact"},
        {"seed", &p.opt.seed, "of the channels' signs; 0: none changes"},
        {"length", choice(p.opt.length, {"row", "decoded", "least"}), "that levels go with"},
        {"levels", choice(p.opt.levels, {"exact", "gaussian"}), "of the codebook"}};
  });
}

}  // namespace

void add_turboquant(table<codec_method>& all) {
  add_bits<4>(all, "turboquant4", "rotated, levels of directions, 4 bits");
  add_bits<3>(all, "turboquant3", "3 bits");
  add_bits<2>(all, "turboquant2", "2 bits");
  add_bits<3, kvslim::turbo_form::inner>(all, "turboquant3_inner",
                                         "3 bits, K in 2 with signs of what they miss");
}

}  // namespace example
