// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "compare/entries.hpp"

namespace example {

using namespace kvslim;

void add_while_decoding(std::vector<method>& list, model_shape const& s) {
  row_group const heads{.sequences = 1, .kv_heads = s.kv_heads};
  auto const add = [&](char const* name, index_t window, auto make) {
    list.push_back(
        entry(name, family::evicted_while_decoding, make, {.evicts = true, .window = window}));
  };
  add("StreamingLLM 25 %, every step", 1, [](index_t t) {
    return pipeline{streaming_llm{}, keep(0.25, t)};
  });
  add("H2O 25 %, every step", 0, [](index_t t) {
    index_t const budget = budget_for(0.25, t);
    return pipeline{h2o<>{}, top_k{{.budget = budget, .sinks = 4, .recent = budget / 2}}};
  });
  add("TOVA 25 %, every step", 1, [=](index_t t) {
    return pipeline{shared{tova{}, heads}, keep(0.25, t)};
  });
  // Their columns begin with the newest token's attention, as their authors' do.
  add("LazyEviction 25 %, every step", 1, [](index_t t) {
    return pipeline{lazy_eviction{}, keep(0.25, t)};
  });
  add("RoCo 25 %, every step", 0, [](index_t t) {
    index_t const budget = budget_for(0.25, t);
    return pipeline{roco{{.budget = budget, .sinks = 4}}, keep(0.25, t)};
  });
  add("Scissorhands 25 %, every step", 0, [](index_t t) {
    return pipeline{scissorhands<>{}, keep(0.25, t)};
  });
}

}  // namespace example
