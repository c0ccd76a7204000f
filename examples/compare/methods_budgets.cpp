// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "compare/entries.hpp"

namespace example {

using namespace kvslim;

void add_shared_budgets(std::vector<method>& list, model_shape const& s, snapkv const& snap,
                        std::shared_ptr<gates const> const& gated) {
  session_options const all_layers{.layers_together = true};
  list.push_back(entry("SnapKV + AdaKV 25 %", family::evicted, [=](index_t t) {
    return pipeline{snap, adakv{{.budget = budget_for(0.25, t), .kv_heads = s.kv_heads}}};
  }));
  list.push_back(entry("SnapKV + KVCrush 25 %", family::evicted, [=](index_t t) {
    return pipeline{snap, keep(0.25, t), kvcrush{}};
  }));
  list.push_back(entry(
      "SnapKV + PyramidKV 25 %", family::evicted,
      [=](index_t t) {
        return pipeline{
            snap,
            pyramidkv{{.budget = budget_for(0.25, t), .layers = s.layers, .kv_heads = s.kv_heads}}};
      },
      all_layers));
  for (auto [name, fraction] :
       {std::pair{"SnapKV 25 %, one budget", 0.25}, std::pair{"SnapKV 12.5 %, one budget", 0.125}})
    list.push_back(entry(
        name, family::evicted,
        [=](index_t t) {
          return pipeline{snap, one(fraction, t, s)};
        },
        all_layers));
  list.push_back(entry("SnapKV + ChunkKV 25 %", family::evicted, [=](index_t t) {
    return pipeline{snap, keep(0.25, t), chunkkv{}};
  }));
  list.push_back(entry(
      "SnapKV + DynamicKV 25 %", family::evicted,
      [=](index_t t) {
        return pipeline{
            snap,
            dynamickv{{.budget = budget_for(0.25, t), .layers = s.layers, .kv_heads = s.kv_heads}}};
      },
      all_layers));
  list.push_back(entry(
      "CAKE 25 %", family::evicted,
      [=](index_t t) {
        return pipeline{
            cake_scores{},
            cake{{.budget = budget_for(0.25, t), .layers = s.layers, .kv_heads = s.kv_heads}}};
      },
      all_layers));
  session_options const repeated{.layers_together = true, .repeats = true};
  list.push_back(entry(
      "KVzip 25 %, one budget", family::evicted,
      [=](index_t t) {
        return pipeline{kvzip{}, one(0.25, t, s)};
      },
      repeated));
  for (auto [name, fraction] : {std::pair{"KVzip squared 50 %, one budget", 0.5},
                                {"KVzip squared 25 %, one budget", 0.25},
                                {"KVzip squared 12.5 %, one budget", 0.125}})
    list.push_back(entry(
        name, family::evicted,
        [=](index_t t) {
          return pipeline{kvzip{{.squared = true}}, one(fraction, t, s)};
        },
        repeated));
  if (gated != nullptr)
    for (auto [name, fraction] :
         {std::pair{"Fast KVzip 25 %, one budget", 0.25}, {"Fast KVzip 12.5 %, one budget", 0.125}})
      list.push_back(entry(name, family::evicted,
                           [=](index_t t) {
                             return pipeline{fastkvzip{}, one(fraction, t, s)};
                           },
                           {.layers_together = true, .gated = gated}));
  session_options whole_prompt = all_layers;
  whole_prompt.window = 0;
  list.push_back(entry(
      "H2O 25 %, one budget", family::evicted,
      [=](index_t t) {
        return pipeline{h2o<>{}, one(0.25, t, s)};
      },
      whole_prompt));
  list.push_back(entry(
      "H2O 25 %", family::evicted,
      [=](index_t t) {
        return pipeline{h2o<>{}, keep(0.25, t)};
      },
      whole_prompt));
}

}  // namespace example
