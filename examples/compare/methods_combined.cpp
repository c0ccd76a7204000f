// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "compare/entries.hpp"

namespace example {

using namespace kvslim;

namespace {

/// Every second head of the model keeps all, the others an eighth: RazorAttention's form without
/// its search for the heads that retrieve, with the token for what they drop and without.
void add_classes(std::vector<method>& list, model_shape const& s) {
  static std::vector<std::uint8_t> table;  // outlives the rows
  table.assign(static_cast<std::size_t>(s.layers * s.kv_heads), 0);
  for (std::size_t i = 0; i < table.size(); i += 2) table[i] = 1;
  auto const classes = [s](index_t t, index_t between) {
    return head_classes<>{{.retrieval = table.data(),
                           .layers = s.layers,
                           .kv_heads = s.kv_heads,
                           .retrieval_heads = (s.layers * s.kv_heads + 1) / 2,
                           .sinks = 4,
                           .recent = budget_for(0.125, t) - 4 - between,
                           .between = between}};
  };
  session_options const all_layers{.layers_together = true};
  list.push_back(entry(
      "Every second head 12.5 %", family::evicted,
      [=](index_t t) {
        return pipeline{streaming_llm{}, classes(t, 0)};
      },
      all_layers));
  list.push_back(entry(
      "Every second head 12.5 % + compensation token", family::merged,
      [=](index_t t) {
        return pipeline{streaming_llm{}, classes(t, 1), compensation_token{}};
      },
      all_layers));
}

}  // namespace

void add_combined(std::vector<method>& list, model_shape const& s, snapkv const& snap) {
  // The paper's sigma of 5 fits another model's keys: here neighbours are farther apart, and their
  // weights would all vanish.
  constexpr kvmerger merge{{.sigma = 20.0f}};
  constexpr kvmerger alone{{.sigma = 20.0f, .recent = 32, .sinks = 4, .mass_bias = true}};
  list.push_back(entry("KVMerger", family::merged, [=](index_t) { return pipeline{snap, alone}; }));
  list.push_back(entry("SnapKV 25 % + KVMerger", family::merged, [=](index_t t) {
    return pipeline{snap, keep(0.25, t), merge};
  }));
  list.push_back(entry("SnapKV 25 % + LOOK-M", family::merged, [=](index_t t) {
    return pipeline{snap, keep(0.25, t), lookm{}};
  }));
  list.push_back(entry("SnapKV 25 % + CaM", family::merged, [=](index_t t) {
    return pipeline{snap, keep(0.25, t), cam{}};
  }));
  list.push_back(entry("StreamingLLM 25 % + compensation token", family::merged, [](index_t t) {
    return pipeline{streaming_llm{}, keep(0.25, t), compensation_token{}};
  }));
  add_classes(list, s);
  index_t const few = s.kv_heads * s.head_dim * 160 / 1024;  // the authors' share of channels
  list.push_back(entry("ShadowKV's keys", family::low_rank, [=](index_t) {
    return shadowkv<f16>{{.kv_heads = s.kv_heads, .rank = few}};
  }));
  session_options const all_layers{.layers_together = true};
  if (s.layers % 2 == 0) {
    list.push_back(entry(
        "MiniCache, pairs of layers", family::merged, [](index_t) { return minicache<>{}; },
        all_layers));
    index_t const half = s.kv_heads * s.head_dim;  // of two layers' channels
    list.push_back(entry(
        "xKV, half, pairs of layers", family::low_rank,
        [=](index_t) {
          return xkv<>{{.rows = {2, s.kv_heads}, .key_rank = half, .value_rank = half}};
        },
        all_layers));
  }
  list.push_back(entry("SnapKV 50 % + KIVI 4 bit", family::combined, [=](index_t t) {
    return pipeline{snap, keep(0.5, t), kivi<4>{}};
  }));
  list.push_back(entry("SnapKV 25 % + KVMerger + KIVI 4 bit", family::combined, [=](index_t t) {
    return pipeline{snap, keep(0.25, t), merge, kivi<4>{}};
  }));
  list.push_back(entry(
      "SnapKV 25 %, one budget + KIVI 4 bit", family::combined,
      [=](index_t t) {
        return pipeline{snap, one(0.25, t, s), kivi<4>{}};
      },
      all_layers));
  session_options const repeated{.layers_together = true, .repeats = true};
  list.push_back(entry(
      "KVzip squared 25 %, one budget + rotated int4", family::combined,
      [=](index_t t) {
        return pipeline{kvzip{{.squared = true}}, one(0.25, t, s), rotated{int_per_token<4>{}}};
      },
      repeated));
  list.push_back(entry(
      "KVzip squared 25 %, one budget + centred 6 bit", family::combined,
      [=](index_t t) {
        return pipeline{kvzip{{.squared = true}}, one(0.25, t, s), centred<6>{}};
      },
      repeated));
  list.push_back(entry(
      "KVzip squared 12.5 %, one budget + centred 8 bit", family::combined,
      [=](index_t t) {
        return pipeline{kvzip{{.squared = true}}, one(0.125, t, s), centred<8>{}};
      },
      repeated));
}

}  // namespace example
