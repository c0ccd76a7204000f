// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Presets are the compositions that they say, and README's table names them all.

#include "support/catch.hpp"
#include "support/methods.hpp"

#include <kvslim/presets.hpp>

#include <cstring>
#include <fstream>
#include <sstream>
#include <string>

using namespace kvslim;

namespace {

/// Bytes that a policy stores of a scene whose sequences are two layers.
template <class Policy>
std::vector<std::byte> stored(Policy const& policy) {
  data::cache const c({.sequences = 2, .kv_heads = 2, .group = 4, .tokens = 90, .head_dim = 32});
  auto const part = [&](rows_shape const& s) { return dense_rows(c.q.data() + 5, s); };
  gate_weights<> const gate{part({1, 8, 4, 12}), part({1, 8, 1, 4}), part({1, 1, 1, 4}),
                            part({1, 2, 4, 12}), part({1, 1, 1, 4}), part({1, 2, 3, 4}),
                            part({1, 2, 1, 4})};
  // As many queries as a scorer's window asks for; those without one take all.
  using scorer = typename Policy::template stage_type<scorer_tag>;
  index_t window = 64;
  if constexpr (requires(scorer s) { s.opt.window; })
    window = policy.template get<scorer_tag>().opt.window;
  data::compressed const run(policy, c.view(),
                             evidence{window_queries{c.queries(window)}, probes{c.queries(30)},
                                      hidden_states{dense_rows(c.q.data(), {2, 1, 90, 12})}, gate});
  INFO(run.result.message);
  REQUIRE(run.result.ok());
  CHECK(run.intact());
  return {run.storage.data(), run.storage.data() + run.packed.bytes()};
}

constexpr presets::scale scale{.budget = 40, .layers = 2, .kv_heads = 2};

template <class Preset, class Policy>
void same(Preset const& preset, Policy const& expected) {
  INFO(preset.name);
  static_assert(std::same_as<decltype(preset(scale)), Policy>);
  CHECK(stored(preset(scale)) == stored(expected));
}

}  // namespace

TEST_CASE("presets are the compositions that they say", "[presets]") {
  using namespace kvslim::presets;
  top_k const keep{{.budget = 40}};
  row_group const layer{1, 2}, all{2, 2};
  same(tova_layer{}, pipeline{shared{tova{}, layer}, keep});
  same(sage_kv{},
       pipeline{snapkv{{.window = 1, .pool = 1}}, top_k{{.budget = 40, .sinks = 4, .recent = 10}}});
  same(observed_attention{}, pipeline{h2o<>{{.per_query = true}}, keep});
  same(h2o_halves{}, pipeline{h2o<>{}, top_k{{.budget = 40, .recent = 20}}});
  same(streaming_llm_rerotated{}, pipeline{streaming_llm{}, keep, rerotate{}});
  same(finch_rerotated{.question = 9}, pipeline{finch{{.window = 9}}, keep, rerotate{}});
  same(ada_snapkv{},
       pipeline{snapkv{{.window = 32, .pool = 7, .kind = pooling::maximum, .reduce_first = true}},
                adakv{{.budget = 40, .kv_heads = 2, .alpha = 0.2}}});
  same(pyramid_snapkv{},
       pipeline{snapkv{{.window = 8, .pool = 7, .kind = pooling::maximum, .reduce_first = true}},
                pyramidkv{{.budget = 40, .layers = 2, .kv_heads = 2, .beta = 20}}});
  same(cake_layers{}, pipeline{cake_scores{{.window = 32, .pool = 5, .gamma = 200.0f}},
                               cake{{.budget = 40, .layers = 2, .kv_heads = 2, .slack = 32}}});
  same(dynamic_kv{}, pipeline{snapkv{{.window = 16, .pool = 7}},
                              dynamickv{{.budget = 40, .layers = 2, .kv_heads = 2}}});
  same(window_kv{}, pipeline{shared{snapkv{{.window = 32, .pool = 1}}, all, reduce::mean, true},
                             windowkv{{.budget = 8, .layers = 2, .kv_heads = 2, .group_layers = 2}},
                             chunkkv{{.size = 16}}});
  same(chunk_kv{}, pipeline{shared{snapkv{}, layer, reduce::sum}, keep, chunkkv{{.size = 20}}});
  same(kvzip_pairs{}, pipeline{kvzip{}, one_budget{{.budget = 40, .rows = all}}});
  same(fast_kvzip{}, pipeline{fastkvzip{}, one_budget{{.budget = 40, .rows = all}}});
  same(d2o_running{},
       pipeline{
           h2o<>{}, top_k{{.budget = 40, .sinks = 4, .recent = 20}},
           d2o{{.filter = fold_filter::places, .running = true, .past = 0.5f, .present = 0.5f}}});
  same(qserve_kv4{}, pipeline{int_per_token<4>{}});
  same(quarot_kv4{}, pipeline{rotated{int_per_token<4>{}}});
}

TEST_CASE("presets are told apart, and README has a row for each", "[presets]") {
  std::ifstream in(KVSLIM_SOURCE_DIR "/README.md");
  std::stringstream text;
  text << in.rdbuf();
  std::string const readme = text.str();
  std::vector<std::string> names;
  presets::each([&](auto const& preset) {
    INFO(preset.name);
    CHECK(std::find(names.begin(), names.end(), preset.name) == names.end());
    names.emplace_back(preset.name);
    CHECK(readme.find("| " + std::string(preset.name) + " | " + preset.what + " | " +
                      preset.source + " |\n") != std::string::npos);
  });
  CHECK(names.size() == 17);
}
