// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "compare/methods.hpp"

namespace example {

namespace {

using namespace kvslim;

/// `make(length)` gives the policy for that many tokens. A window of 0 is all queries.
template <class MakePolicy>
method entry(std::string name, family kind, MakePolicy make, session_options options = {}) {
  return {std::move(name), kind,
          [=](prefilled const& text, index_t length, index_t append) -> std::unique_ptr<session> {
            auto with = options;
            if (with.window == 0) with.window = length;
            return std::make_unique<policy_session<decltype(make(length))>>(text, make(length),
                                                                            length, append, with);
          }};
}

auto keep(double fraction, index_t tokens) {
  return top_k{{.budget = budget_for(fraction, tokens), .sinks = 4, .recent = 32}};
}

void add_quantized(std::vector<method>& list) {
  auto const add = [&](char const* name, auto policy) {
    list.push_back(entry(name, family::quantized, [=](index_t) { return policy; }));
  };
  add("int8 per token", int_per_token<8>{});
  add("int4 per token", int_per_token<4>{});
  add("int4 per token, rotated", rotated{int_per_token<4>{}});
  add("ggml q8_0", ggml<ggml_block::q8_0>{});
  add("ggml q4_0", ggml<ggml_block::q4_0>{});
  add("KIVI 8 bit", kivi<8>{});
  add("KIVI 4 bit", kivi<4>{});
  add("KIVI 2 bit", kivi<2>{});
}

void add_evicted(std::vector<method>& list, model const& m, snapkv const& snap) {
  rerotate const close_gaps{m.rope()};
  row_group const heads{.sequences = 1, .kv_heads = m.shape().kv_heads};
  auto const add = [&](char const* name, auto make) {
    list.push_back(entry(name, family::evicted, make));
  };
  add("StreamingLLM 50 %", [](index_t t) { return pipeline{streaming_llm{}, keep(0.5, t)}; });
  add("StreamingLLM 50 % rerotated", [=](index_t t) {
    return pipeline{streaming_llm{}, keep(0.5, t), close_gaps};
  });
  add("Random 50 %", [](index_t t) { return pipeline{random_scores{}, keep(0.5, t)}; });
  add("Random 25 %", [](index_t t) { return pipeline{random_scores{}, keep(0.25, t)}; });
  add("Knorm 50 %", [](index_t t) { return pipeline{knorm{}, keep(0.5, t)}; });
  add("KeyDiff 50 %", [](index_t t) { return pipeline{keydiff{}, keep(0.5, t)}; });
  add("SnapKV 50 %", [=](index_t t) { return pipeline{snap, keep(0.5, t)}; });
  add("SnapKV 25 %", [=](index_t t) { return pipeline{snap, keep(0.25, t)}; });
  add("SnapKV 12.5 %", [=](index_t t) { return pipeline{snap, keep(0.125, t)}; });
  add("SnapKV 50 % per layer", [=](index_t t) {
    return pipeline{shared{snap, heads}, keep(0.5, t)};
  });
  add("SnapKV 25 % per layer", [=](index_t t) {
    return pipeline{shared{snap, heads}, keep(0.25, t)};
  });
}

/// Who decides how much each head and layer keeps.
void add_shared_budgets(std::vector<method>& list, model_shape const& s, snapkv const& snap) {
  session_options const all_layers{.layers_together = true};
  auto const one = [=](double fraction, index_t t) {
    return one_budget{{.budget = budget_for(fraction, t),
                       .rows = {s.layers, s.kv_heads},
                       .sinks = 4,
                       .recent = 32}};
  };
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
          return pipeline{snap, one(fraction, t)};
        },
        all_layers));
  session_options whole_prompt = all_layers;
  whole_prompt.window = 0;
  list.push_back(entry(
      "H2O 25 %, one budget", family::evicted,
      [=](index_t t) {
        return pipeline{h2o<>{}, one(0.25, t)};
      },
      whole_prompt));
  list.push_back(entry(
      "H2O 25 %", family::evicted,
      [=](index_t t) {
        return pipeline{h2o<>{}, keep(0.25, t)};
      },
      whole_prompt));
  list.push_back(entry(
      "SnapKV 25 %, one budget + KIVI 4 bit", family::combined,
      [=](index_t t) {
        return pipeline{snap, one(0.25, t), kivi<4>{}};
      },
      all_layers));
}

/// A fixed budget while decoding: as many tokens leave as come.
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
}

void add_merged(std::vector<method>& list, snapkv const& snap) {
  // The paper's sigma of 5 fits another model's keys: here neighbours are farther apart, and their
  // weights would all vanish.
  constexpr kvmerger merge{{.sigma = 20.0f}};
  constexpr kvmerger alone{{.sigma = 20.0f, .recent = 32, .sinks = 4, .mass_bias = true}};
  list.push_back(entry("KVMerger", family::merged, [=](index_t) { return pipeline{snap, alone}; }));
  list.push_back(entry("SnapKV 25 % + KVMerger", family::merged, [=](index_t t) {
    return pipeline{snap, keep(0.25, t), merge};
  }));
  list.push_back(entry("SnapKV 50 % + KIVI 4 bit", family::combined, [=](index_t t) {
    return pipeline{snap, keep(0.5, t), kivi<4>{}};
  }));
  list.push_back(entry("SnapKV 25 % + KVMerger + KIVI 4 bit", family::combined, [=](index_t t) {
    return pipeline{snap, keep(0.25, t), merge, kivi<4>{}};
  }));
}

/// Every KV head is given the scores of the next head of its layer.
template <auto Scorer, index_t Window>
std::vector<float> next_heads_scores(prefilled const& text, index_t layer, index_t layers,
                                     index_t length) {
  auto const view = text.cache(layer, layers, length);
  extents const& e = view.extents();
  auto const plan = make_plan(pipeline{Scorer, keep(0.5, length)}, e);
  aligned_buffer const scratch(plan.select_bytes() + plan.keep_bytes());
  std::vector<float> scores(static_cast<std::size_t>(e.rows() * e.tokens));
  evidence const queries{
      window_queries{text.window(layer, layers, length, Window == 0 ? length : Window)}};
  require(score(cpu{}, plan, view, queries, score_view{scores.data(), e.tokens}, scratch));
  for (auto row = scores.begin(); row != scores.end(); row += e.kv_heads * e.tokens)
    std::rotate(row, row + e.tokens, row + e.kv_heads * e.tokens);
  return scores;
}

/// One scorer at one budget. Every head keeps its own choice; all heads of a layer keep one; each
/// keeps the next head's, which is as varied and meant for another.
template <auto Scorer, index_t Window>
void add_choices(std::vector<method>& list, std::string const& name, double fraction,
                 model_shape const& s) {
  auto const add = [&](char const* what, auto make, session_options options = {.window = Window}) {
    list.push_back(entry(name + what, family::evicted, make, options));
    if (*what != 0) list.back().against = name;
  };
  row_group const heads{.sequences = 1, .kv_heads = s.kv_heads};
  add("", [=](index_t t) { return pipeline{Scorer, keep(fraction, t)}; });
  add(", layer's mean", [=](index_t t) {
    return pipeline{shared{Scorer, heads, reduce::mean}, keep(fraction, t)};
  });
  add(", layer's maximum", [=](index_t t) {
    return pipeline{shared{Scorer, heads, reduce::maximum}, keep(fraction, t)};
  });
  add(", next head's",
      [=](index_t t) {
        return pipeline{given_scores{}, keep(fraction, t)};
      },
      {.scores = next_heads_scores<Scorer, Window>});
}

}  // namespace

std::vector<method> head_methods(model const& m, bool bytes) {
  constexpr snapkv of_bytes{{.window = 32, .pool = snapkv_pool(true)}},
      of_words{{.window = 32, .pool = snapkv_pool(false)}};
  std::vector<method> list{entry("exact f16", family::exact, [](index_t) { return dense<f16>{}; })};
  auto const& s = m.shape();
  for (auto [percent, fraction] : {std::pair{"50 %", 0.5}, {"25 %", 0.25}, {"12.5 %", 0.125}}) {
    auto const name = std::string("SnapKV ") + percent;
    if (bytes)
      add_choices<of_bytes, 32>(list, name, fraction, s);
    else
      add_choices<of_words, 32>(list, name, fraction, s);
    snapkv const snap = bytes ? of_bytes : of_words;
    list.push_back(entry(name + ", AdaKV", family::evicted, [=](index_t t) {
      return pipeline{snap, adakv{{.budget = budget_for(fraction, t), .kv_heads = s.kv_heads}}};
    }));
    list.back().against = name;
  }
  add_choices<h2o<>{}, 0>(list, "H2O 25 %", 0.25, s);
  add_choices<random_scores{}, 32>(list, "Random 25 %", 0.25, s);
  return list;
}

std::vector<method> methods(model const& m, bool bytes) {
  snapkv const snap{{.window = 32, .pool = snapkv_pool(bytes)}};
  std::vector<method> list{entry("exact f16", family::exact, [](index_t) { return dense<f16>{}; })};
  add_quantized(list);
  add_evicted(list, m, snap);
  add_shared_budgets(list, m.shape(), snap);
  add_while_decoding(list, m.shape());
  add_merged(list, snap);
  return list;
}

}  // namespace example
