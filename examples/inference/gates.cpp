// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "gates.hpp"

namespace example {

gates::gates(gguf const& file, model_shape const& shape) {
  auto const count = [&](std::string const& key) {
    double const n = file.number("fastkvzip." + key);
    if (!(n >= 1 && n <= 1024)) throw gguf_error("GGUF: fastkvzip." + key + " is out of range");
    return static_cast<index_t>(n);
  };
  index_t const dim = count("dim"), sinks = count("sinks");
  auto const read = [&](std::string const& name, index_t heads, index_t rows, index_t columns) {
    table out{heads, rows, columns, {}};
    for (index_t l = 0; l < shape.layers; ++l) {
      auto const one = file.tensor("blk." + std::to_string(l) + ".gate_" + name + ".weight",
                                   static_cast<std::uint64_t>(heads * rows),
                                   static_cast<std::uint64_t>(columns));
      out.data.insert(out.data.end(), one.begin(), one.end());
    }
    return out;
  };
  query_ = read("query", shape.q_heads, dim, shape.width);
  query_bias_ = read("query_bias", shape.q_heads, 1, dim);
  query_gain_ = read("query_gain", 1, 1, dim);
  key_ = read("key", shape.kv_heads, dim, shape.width);
  key_gain_ = read("key_gain", 1, 1, dim);
  sinks_ = read("sinks", shape.kv_heads, sinks, dim);
  offset_ = read("offset", shape.kv_heads, 1, shape.q_heads / shape.kv_heads);
}

kvslim::gate_weights<> gates::of(index_t layer, index_t layers) const {
  auto const view = [&](table const& x) {
    return kvslim::dense_rows(x.data.data() + layer * x.heads * x.rows * x.columns,
                              {layers, x.heads, x.rows, x.columns});
  };
  return {view(query_),    view(query_bias_), view(query_gain_), view(key_),
          view(key_gain_), view(sinks_),      view(offset_)};
}

}  // namespace example
