// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Codecs of 8 and 4 bits per token, alone and paired.

#include "codecs.hpp"

#include <kvslim/quant/codec_pair.hpp>
#include <kvslim/quant/int_per_token.hpp>
#include <kvslim/quant/rotated.hpp>

namespace example {

void add_integers(table<codec_method>& all) {
  add_codec<kvslim::int_per_token<8>>(all, "int_per_token8", "-", "8 bits per token",
                                      residual_option);
  add_codec<kvslim::int_per_token<6>>(all, "int_per_token6", "-", "6 bits per token",
                                      residual_option);
  add_codec<kvslim::int_per_token<4>>(all, "int_per_token4", "-", "4 bits per token",
                                      residual_option);
  add_codec<kvslim::codec_pair<kvslim::token_key<8>, kvslim::token_value<4>>>(
      all, "codec_pair_k8v4", "-", "K in 8, V in 4 bits per token", [](auto& p) {
        return options{{"key_residual", &p.key.residual, "newest keys kept exact"},
                       {"value_residual", &p.value.residual, "newest values kept exact"},
                       {"value_group", &p.value.group, "channels per group; 0: all"}};
      });
  auto const rotated = [](auto& p) {
    return options{{"residual", &p.quantizer.opt.residual, "newest tokens kept exact"},
                   {"seed", &p.opt.seed, "of the channels' signs; 0: none changes"}};
  };
  add_codec<kvslim::rotated<kvslim::int_per_token<8>>>(
      all, "rotated_int_per_token8", "arXiv:2404.00456", "rotated, then 8 bits", rotated);
  add_codec<kvslim::rotated<kvslim::int_per_token<4>>>(
      all, "rotated_int_per_token4", "arXiv:2404.00456", "rotated, then 4 bits", rotated);
}

}  // namespace example
