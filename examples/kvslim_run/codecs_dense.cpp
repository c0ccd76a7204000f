// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Codecs that store plain numbers, and the table of all.

#include "codecs.hpp"

#include <kvslim/quant/dense.hpp>

namespace example {

void add_dense(table<codec_method>& all) {
  add_codec<kvslim::dense<kvslim::f16>>(all, "dense_f16", "-", "f16 (the default)", no_options);
  add_codec<kvslim::dense<float>>(all, "dense_f32", "-", "f32", no_options);
  add_codec<kvslim::dense<kvslim::bf16>>(all, "dense_bf16", "-", "bf16", no_options);
  add_codec<kvslim::dense<kvslim::e4m3>>(all, "dense_e4m3", "-", "fp8, 3 bits of fraction",
                                         no_options);
  add_codec<kvslim::dense<kvslim::e5m2>>(all, "dense_e5m2", "-", "fp8, 2 bits of fraction",
                                         no_options);
}

pages read_pages(to_store const& rows, stored& out) {
  auto const& e = rows.view.extents();
  cells decoded;
  decoded.extent = e;
  decoded.extent.tokens = std::max<index_t>(rows.most, 1);
  decoded.k = out.k;
  decoded.v = out.v;
  decoded.positions = out.positions;
  decoded.bias = out.bias;
  decoded.positions_per_head = decoded.lengths_per_head = decoded.bias_per_head = true;
  for (index_t r = 0; r < e.rows(); ++r)
    decoded.lengths.push_back(static_cast<std::int32_t>(rows.keep.count(r)));
  pages read = rows.index->choose(decoded, *rows.asked, rows.options);
  out.bytes += read.bytes;
  out.pages_ms = read.ms;
  index_t tokens = 0;
  for (std::size_t r = 0; r < read.counts.size(); ++r)
    for (std::int32_t i = 0; i < read.counts[r]; ++i) {
      auto const at = 2 * (r * static_cast<std::size_t>(read.most) + static_cast<std::size_t>(i));
      tokens += read.begin_end[at + 1] - read.begin_end[at];
    }
  out.tokens_read = tokens;
  return read;
}

table<codec_method> codecs() {
  table<codec_method> all;
  add_dense(all);
  add_integers(all);
  add_kivi(all);
  add_centred(all);
  add_gear(all);
  add_xkv(all);
  add_cskv(all);
  add_palu(all);
  add_shadowkv(all);
  add_matryoshkakv(all);
  add_eigen_attention(all);
  add_pruned(all);
  add_kvquant(all);
  add_zipcache(all);
  add_mikv(all);
  add_ggml(all);
  add_floats(all);
  add_turboquant(all);
  add_minicache(all);
  return all;
}

}  // namespace example
