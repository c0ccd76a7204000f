// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// KVQuant with codebooks that are loaded, by bits, and with codebooks of the prompt.

#include "codecs.hpp"

#include <kvslim/quant/kvquant.hpp>

namespace example {

namespace {

template <int Bits, kvslim::codebook_from From = kvslim::codebook_from::table>
void add_bits(table<codec_method>& all, char const* name, char const* what) {
  add_codec<kvslim::kvquant<Bits, Bits, From>>(all, name, "arXiv:2401.18079", what, [](auto& p) {
    return options{{"layers", &p.opt.layers, "in the tables"},
                   {"kv_heads", &p.opt.kv_heads, "of a layer"},
                   {"sinks", &p.opt.sinks, "first tokens kept exact (authors)"},
                   {"outliers", &p.opt.outliers, "share of values kept aside (authors)"},
                   {"rope_base", &p.opt.rotation.base, "of the keys' rotation"},
                   {"rope_dims", &p.opt.rotation.dims, "rotated channels; 0: all"}};
  });
}

}  // namespace

void add_kvquant(table<codec_method>& all) {
  add_bits<4>(all, "kvquant4", "4 bits, codebooks in key_basis and value_basis");
  add_bits<3>(all, "kvquant3", "3 bits");
  add_bits<2>(all, "kvquant2", "2 bits");
  add_bits<4, kvslim::codebook_from::prompt>(all, "kvquant4_prompt",
                                             "4 bits, codebooks fitted to the prompt");
}

}  // namespace example
