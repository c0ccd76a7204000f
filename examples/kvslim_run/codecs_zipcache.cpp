// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// One class of ZipCache, by bits.

#include "codecs.hpp"

#include <kvslim/quant/zipcache.hpp>

namespace example {

namespace {

template <int Bits>
void add_bits(table<codec_method>& all, char const* name, char const* what) {
  add_codec<kvslim::zipcache<Bits>>(all, name, "arXiv:2405.14256", what, [](auto& p) {
    return options{{"residual", &p.opt.residual, "newest tokens kept exact"}};
  });
}

}  // namespace

void add_zipcache(table<codec_method>& all) {
  add_bits<4>(all, "zipcache4", "4 bits: the class of salient tokens");
  add_bits<2>(all, "zipcache2", "2 bits: the class of the others");
}

}  // namespace example
