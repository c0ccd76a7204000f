// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Eigen Attention: each head projected on directions that are loaded.

#include "codecs.hpp"

#include <kvslim/quant/eigen_attention.hpp>

namespace example {

namespace {

template <kvslim::key_form Keys>
void add_eigen_of(table<codec_method>& all, char const* name, char const* what) {
  add_codec<kvslim::eigen_attention<kvslim::f16, Keys>>(
      all, name, "arXiv:2408.05646", what, [](auto& p) {
        options out{{"layers", &p.opt.layers, "in the tables"},
                    {"kv_heads", &p.opt.kv_heads, "of a layer"},
                    {"key_rank", &p.opt.key_rank, "numbers of a token's key, for each head"},
                    {"value_rank", &p.opt.value_rank, "of its value"},
                    {"residual", &p.opt.residual, "newest tokens kept exact"}};
        if constexpr (Keys == kvslim::key_form::before_rope) {
          out.push_back({"rope_base", &p.opt.rotation.base, "of the keys' rotation"});
          out.push_back({"rope_dims", &p.opt.rotation.dims, "rotated channels; 0: all"});
        }
        return out;
      });
}

}  // namespace

void add_eigen_attention(table<codec_method>& all) {
  add_eigen_of<kvslim::key_form::before_rope>(all, "eigen_attention",
                                              "heads projected by key_basis and value_basis");
  add_eigen_of<kvslim::key_form::as_given>(all, "eigen_attention_as_given",
                                           "likewise, keys as they are");
}

}  // namespace example
