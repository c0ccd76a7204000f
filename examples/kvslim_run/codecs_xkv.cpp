// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// xKV: rows in a space of low rank that is fitted to them.

#include "codecs.hpp"

#include <kvslim/quant/xkv.hpp>

namespace example {

namespace {

template <kvslim::key_form Keys>
void add_xkv_of(table<codec_method>& all, char const* name, char const* what) {
  using policy = kvslim::xkv<kvslim::f16, Keys>;
  add_codec<policy>(all, name, "arXiv:2503.18893", what, [](policy& p) {
    p.opt.rows = {1, 1};
    p.opt.key_rank = p.opt.value_rank = 32;
    options out{{"sequences", &p.opt.rows.sequences, "layers of a group: so many sequences"},
                {"kv_heads", &p.opt.rows.kv_heads, "KV heads of a group"},
                {"key_rank", &p.opt.key_rank, "numbers of a token's keys, for the group"},
                {"value_rank", &p.opt.value_rank, "of its values"},
                {"residual", &p.opt.residual, "newest tokens kept exact"},
                {"rounds", &p.opt.rounds, "of subspace iteration"}};
    if constexpr (Keys == kvslim::key_form::before_rope) {
      out.push_back({"rope_base", &p.opt.rotation.base, "of the keys' rotation"});
      out.push_back({"rope_dims", &p.opt.rotation.dims, "rotated channels; 0: all"});
    }
    return out;
  });
}

}  // namespace

void add_xkv(table<codec_method>& all) {
  add_xkv_of<kvslim::key_form::before_rope>(
      all, "xkv", "few directions that a group of rows shares, keys before RoPE");
  add_xkv_of<kvslim::key_form::as_given>(all, "xkv_as_given", "likewise, keys as they are");
}

}  // namespace example
