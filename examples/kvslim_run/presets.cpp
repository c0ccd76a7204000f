// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// The library's presets, told to the tables of methods, and the pipelines of the comparison
// (examples/compare) by the same names, but for those that evict while they decode. SnapKV pools
// over its authors' 5 tokens.

#include "settings.hpp"

#include <algorithm>

namespace example {

namespace {

json named(char const* name, json options) { return {{"name", name}, {"options", options}}; }

json keep(char const* budget) {
  return named("top_k", {{"budget", budget}, {"sinks", 4}, {"recent", 32}});
}
json one(char const* budget) {
  return named("one_budget", {{"budget", budget}, {"layers", "all"}, {"sinks", 4}, {"recent", 32}});
}

struct compared_row {
  char const* name;
  json settings;
};

std::vector<compared_row> compared_rows() {
  json const layer = {{"kv_heads", "all"}};
  json const merge = named("kvmerger", {{"sigma", 20}});
  json const alone =
      named("kvmerger", {{"sigma", 20}, {"recent", 32}, {"sinks", 4}, {"mass_bias", true}});
  return {
      {"exact f16", {{"quant", "dense_f16"}}},
      {"int8 per token", {{"quant", "int_per_token8"}}},
      {"int4 per token", {{"quant", "int_per_token4"}}},
      {"int4 per token, rotated", {{"quant", "rotated_int_per_token4"}}},
      {"Centred 8 bit", {{"quant", "centred8"}}},
      {"Centred K 6, V 5 bit", {{"quant", "centred6_5"}}},
      {"Centred 4 bit", {{"quant", "centred4"}}},
      {"TurboQuant 4 bit", {{"quant", "turboquant4"}}},
      {"TurboQuant 3 bit", {{"quant", "turboquant3"}}},
      {"TurboQuant 3 bit, inner products", {{"quant", "turboquant3_inner"}}},
      {"ggml q8_0", {{"quant", "ggml_q8_0"}}},
      {"ggml q5_1", {{"quant", "ggml_q5_1"}}},
      {"ggml q4_0", {{"quant", "ggml_q4_0"}}},
      {"fp8 per token", {{"quant", "fp8_e4m3"}}},
      {"NVFP4", {{"quant", "fp4_nvfp4"}}},
      {"MXFP4", {{"quant", "fp4_mxfp4"}}},
      {"KIVI 8 bit", {{"quant", "kivi8"}}},
      {"KIVI 4 bit", {{"quant", "kivi4"}}},
      {"KIVI 2 bit", {{"quant", "kivi2"}}},
      {"ThinK 40 %", {{"quant", "think"}}},
      {"ZipCache 4 bit, one class", {{"quant", "zipcache4"}}},
      {"MiKV 4 bit, one class", {{"quant", "mikv4"}}},
      {"KVQuant 4 bit, levels of the prompt", {{"quant", "kvquant4_prompt"}}},
      {"Mustafar 50 %", {{"quant", "mustafar"}}},
      {"Mustafar 70 %", {{"quant", named("mustafar", {{"key_share", 0.7}, {"value_share", 0.7}})}}},
      {"StreamingLLM 50 %", {{"score", "streaming_llm"}, {"select", keep("50%")}}},
      {"StreamingLLM 50 % rerotated",
       {{"score", "streaming_llm"}, {"select", keep("50%")}, {"reposition", "rerotate"}}},
      {"Random 50 %", {{"score", "random_scores"}, {"select", keep("50%")}}},
      {"Random 25 %", {{"score", "random_scores"}, {"select", keep("25%")}}},
      {"Knorm 50 %", {{"score", "knorm"}, {"select", keep("50%")}}},
      {"KeyDiff 50 %", {{"score", "keydiff"}, {"select", keep("50%")}}},
      {"SnapKV 50 %", {{"score", "snapkv"}, {"select", keep("50%")}}},
      {"SnapKV 25 %", {{"score", "snapkv"}, {"select", keep("25%")}}},
      {"SnapKV 12.5 %", {{"score", "snapkv"}, {"select", keep("12.5%")}}},
      {"SnapKV 50 % per layer", {{"score", "snapkv"}, {"shared", layer}, {"select", keep("50%")}}},
      {"SnapKV 25 % per layer", {{"score", "snapkv"}, {"shared", layer}, {"select", keep("25%")}}},
      {"SnapKV + AdaKV 25 %",
       {{"score", "snapkv"}, {"select", named("adakv", {{"budget", "25%"}})}}},
      {"SnapKV + KVCrush 25 %",
       {{"score", "snapkv"}, {"select", keep("25%")}, {"keep", "kvcrush"}}},
      {"SnapKV + PyramidKV 25 %",
       {{"score", "snapkv"},
        {"select", named("pyramidkv", {{"budget", "25%"}, {"layers", "all"}})}}},
      {"SnapKV 25 %, one budget", {{"score", "snapkv"}, {"select", one("25%")}}},
      {"SnapKV 12.5 %, one budget", {{"score", "snapkv"}, {"select", one("12.5%")}}},
      {"H2O 25 %, one budget", {{"score", "h2o"}, {"select", one("25%")}}},
      {"H2O 25 %", {{"score", "h2o"}, {"select", keep("25%")}}},
      {"SnapKV 25 %, one budget + KIVI 4 bit",
       {{"score", "snapkv"}, {"select", one("25%")}, {"quant", "kivi4"}}},
      {"KVMerger", {{"score", "snapkv"}, {"merge", alone}}},
      {"SnapKV 25 % + KVMerger", {{"score", "snapkv"}, {"select", keep("25%")}, {"merge", merge}}},
      {"SnapKV 50 % + KIVI 4 bit",
       {{"score", "snapkv"}, {"select", keep("50%")}, {"quant", "kivi4"}}},
      {"SnapKV 25 % + KVMerger + KIVI 4 bit",
       {{"score", "snapkv"}, {"select", keep("25%")}, {"merge", merge}, {"quant", "kivi4"}}},
  };
}

/// The method of a table that a policy is of, with its options.
template <class Stage, class Policy>
json told(table<Stage> const& all, Policy const& policy) {
  for (auto const& m : all)
    if (m->take(typeid(Policy), &policy)) return described(m.get());
  throw refusal("a preset has a method that kvslim_run lacks");
}

template <class Scorer>
void tell_scorer(Scorer const& scorer, json& out) {
  out["score"] = told(scorers(), scorer);
}
template <class Scorer>
void tell_scorer(kvslim::shared<Scorer> const& by, json& out) {
  out["score"] = told(scorers(), static_cast<Scorer const&>(by));
  out["shared"] = described(sharing{by.rows, by.how, by.leads});
}

/// A pipeline as settings.
template <class Policy>
json settings_of(Policy const& p) {
  using namespace kvslim;
  json out = json::object();
  if constexpr (Policy::template has<scorer_tag>) tell_scorer(p.template get<scorer_tag>(), out);
  if constexpr (Policy::template has<quota_tag>)
    out["select"] = told(quotas(), p.template get<quota_tag>());
  if constexpr (Policy::template has<keep_tag>)
    out["keep"] = told(keep_rules(), p.template get<keep_tag>());
  if constexpr (Policy::template has<merger_tag>)
    out["merge"] = told(mergers(), p.template get<merger_tag>());
  if constexpr (Policy::template has<position_tag>)
    out["reposition"] = told(movers(), p.template get<position_tag>());
  if constexpr (Policy::template has<quantizer_tag>)
    out["quant"] = told(codecs(), p.template get<quantizer_tag>());
  return out;
}

}  // namespace

json preset(std::string const& name, kvslim::presets::scale const& scale) {
  json found;
  kvslim::presets::each([&](auto const& row) {
    if (row.name == name) found = settings_of(row(scale));
  });
  if (!found.is_null()) return found;
  for (auto const& row : compared_rows())
    if (row.name == name) return row.settings;
  throw refusal("there is no preset " + name + ": --list names them");
}

std::string list_presets() {
  std::string text = "presets, of 256 tokens in a layer of 8 heads\n";
  kvslim::presets::each([&](auto const& row) {
    text += std::string("  ") + row.name + "\n    " + row.what + "; " + row.source + "\n    " +
            settings_of(row({.budget = 256, .kv_heads = 8})).dump() + '\n';
  });
  text += "rows of the comparison\n";
  for (auto const& row : compared_rows())
    text += std::string("  ") + row.name + "\n    " + row.settings.dump() + '\n';
  return text;
}

}  // namespace example
