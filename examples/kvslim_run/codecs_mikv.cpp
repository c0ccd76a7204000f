// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// One class of MiKV, by bits.

#include "codecs.hpp"

#include <kvslim/quant/mikv.hpp>

namespace example {

namespace {

template <int Bits>
void add_bits(table<codec_method>& all, char const* name, char const* what) {
  add_codec<kvslim::mikv<Bits>>(all, name, "arXiv:2402.18096", what, [](auto& p) {
    return options{{"residual", &p.opt.residual, "newest tokens kept exact"}};
  });
}

}  // namespace

void add_mikv(table<codec_method>& all) {
  add_bits<4>(all, "mikv4", "4 bits, keys balanced against queries");
  add_bits<2>(all, "mikv2", "2 bits, likewise: what a policy would evict");
}

}  // namespace example
