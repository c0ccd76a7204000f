// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// The same policies, plans and data on both backends: identical kept sets, codes and stored bytes,
// attention within the bound. Exits 77 (skipped) where there is no GPU. Run under compute-sanitizer
// where there is one.

#include "backend.hpp"
#include "own_codecs.hpp"
#include "support/policies.hpp"

using namespace on_device;
using namespace kvslim;

namespace {

/// Quotas that read a table: the same one in either memory.
void tables(problem const& p) {
  std::vector<std::int32_t> counts;
  std::vector<std::uint8_t> classes;
  std::vector<float> parts;
  for (index_t r = 0; r < p.e.rows(); ++r) {
    counts.push_back(static_cast<std::int32_t>(r * 37 % 90));
    parts.push_back(static_cast<float>(r * 29 % 100) / 99.0f);
    classes.push_back(static_cast<std::uint8_t>(r % 3 == 1));
  }
  device<std::int32_t> const dcounts(counts);
  device<std::uint8_t> const dclasses(classes);
  device<float> const dparts(parts);
  auto const layers = p.e.sequences, heads = p.e.kv_heads;
  auto const budgets = [&]<class Space>(Space, std::int32_t const* at) {
    return pipeline{given_scores{}, head_table<Space>{{.counts = at,
                                                       .layers = layers,
                                                       .kv_heads = heads,
                                                       .most = 90,
                                                       .total = 90 * p.e.rows(),
                                                       .sinks = 2,
                                                       .recent = 5}}};
  };
  compare_tables(p, "head_table", budgets(host_space{}, counts.data()),
                 budgets(cuda_space{}, dcounts.get()), exactness::bytes);
  auto const shares = [&]<class Space>(Space, float const* at) {
    return pipeline{given_scores{},
                    lukv<Space>{{.removed = at, .layers = layers, .kv_heads = heads}}};
  };
  compare_tables(p, "lukv", shares(host_space{}, parts.data()), shares(cuda_space{}, dparts.get()),
                 exactness::bytes);
  auto const kinds = [&]<class Space>(Space, std::uint8_t const* at) {
    return pipeline{
        streaming_llm{},
        head_classes<Space>{
            {.retrieval = at, .layers = layers, .kv_heads = heads, .sinks = 3, .recent = 20}}};
  };
  compare_tables(p, "head_classes", kinds(host_space{}, classes.data()),
                 kinds(cuda_space{}, dclasses.get()), exactness::bytes);
}

/// Quantizers, and one policy for every seam.
void every_method(problem const& p) {
  index_t const heads = p.e.kv_heads;
  top_k const keep{{.budget = p.e.tokens / 2 + 1, .sinks = 4, .recent = 8}};
  auto const bytes = exactness::bytes, tokens = exactness::tokens;
  compare(p, "dense f16", dense<f16>{}, bytes);
  compare(p, "kivi 4", kivi<4>{{.residual = 32}}, bytes);
  compare(p, "kivi 2, blocks beyond shared memory",
          kivi<2>{{.group = 128, .residual = 128, .value_group = 32}}, bytes);
  compare(p, "kivi 2, groups across runs",
          kivi<2>{{.group = 24, .residual = 96, .value_group = 32}}, bytes);
  for (bool const kcvt : {false, true})
    compare(p, kcvt ? "gear 4, KCVT" : "gear 4",
            gear<4>{{.group = 32, .outliers = 0.05f, .value_group = 16, .kcvt = kcvt}}, tokens, 70);
  compare(p, "gear_l 2", gear_l<2>{{.group = 32, .residual = 32, .rank = 3, .value_group = 16}},
          tokens, 40);
  compare(p, "int 8", int_per_token<8>{}, bytes);
  compare(p, "int 4, a tail", int_per_token<4>{{.residual = 20}}, bytes);
  compare(p, "codecs of one's own", own_codecs{}, bytes);
  compare(p, "streaming_llm", pipeline{streaming_llm{}, keep}, bytes);
  compare(p, "given scores, kivi 4", pipeline{given_scores{}, keep, kivi<4>{{.residual = 32}}},
          bytes);
  compare(p, "shared scores", pipeline{shared{given_scores{}, row_group{1, heads}}, keep}, bytes);
  compare(p, "a contest", pipeline{given_scores{}, policies::contested{40, 3, heads}}, bytes);
  compare(p, "a threshold", pipeline{given_scores{}, policies::above{64, 100.0f}}, bytes);
  compare(p, "heavy hitters", pipeline{policies::heavy{}, keep, int_per_token<8>{}}, bytes);
  problem const repeated{"repeated heads",
                         {2, 3, 150, 32},
                         {.lengths = true, .positions = true, .valid = true, .repeated = true},
                         1};
  for (auto const* on : {&p, &repeated})
    compare(*on, "snapkv", pipeline{snapkv{{.window = 16}}, keep, int_per_token<8>{}}, bytes);
  snapkv const pooled{{.window = 16, .pool = 7, .kind = pooling::maximum, .reduce_first = true}};
  compare(p, "keydiff", pipeline{keydiff{}, keep}, bytes);
  for (index_t const lag : {9, 40})
    compare(p, "lagkv", pipeline{lagkv{{.lag = lag, .value_weight = 0.5f}}, keep}, bytes);
  compare(p, "qfilters", pipeline{qfilters{}, keep}, bytes);
  compare(p, "expected_attention", pipeline{expected_attention<>{}, keep}, bytes);
  compare(p, "expected_attention, mean and part of the channels",
          pipeline{expected_attention<>{{.rotation = {.dims = 20, .interleaved = true},
                                         .sinks = 0,
                                         .covariance = false,
                                         .epsilon = 0.02f}},
                   keep},
          bytes);
  compare(p, "expected_attention_stats",
          pipeline{expected_attention_stats{{.value_norm = false}}, keep}, bytes);
  compare(p, "kvzip", pipeline{kvzip{}, keep}, bytes);
  compare(p, "kvzip, squared", pipeline{kvzip{{.sinks = 9, .squared = true}}, keep}, bytes);
  compare(p, "fastkvzip", pipeline{fastkvzip{{.sinks = 3, .recent_part = 0.05}}, keep}, bytes);
  compare(p, "finch", pipeline{finch{{.window = 16}}, keep}, bytes);
  for (auto const kind : {leverage::product, leverage::average})
    compare(p, "curdkv", pipeline{curdkv{{.kind = kind}}, keep}, bytes);
  compare(p, "criticalkv", pipeline{criticalkv{snapkv{{.window = 16}}, {.budget = 75}}, keep},
          bytes);
  compare(p, "criticalkv of a token scorer", pipeline{criticalkv{knorm{}, {.budget = 60}}, keep},
          bytes);
  compare(p, "laq", pipeline{laq{{.window = 7, .pseudo = 9, .pool = 3}}, keep}, bytes);
  compare(p, "laq without a window", pipeline{laq{{.window = 0, .pseudo = 16}}, keep}, bytes);
  for (bool const standard : {false, true})
    compare(p, "blend",
            pipeline{blend{kvzip{}, keydiff{}, {.first = 2.0f, .standard = standard}}, keep},
            bytes);
  for (index_t const size : {1, 60, 300})
    compare(p, "chunked", pipeline{chunked{keydiff{}, {.size = size}}, keep}, bytes);
  compare(p, "h2o", pipeline{h2o<>{}, keep}, bytes);
  compare(p, "tova", pipeline{shared{tova{}, row_group{1, heads}}, keep}, bytes);
  for (auto const safe : {safeguard::exact, safeguard::authors, safeguard::pin})
    compare(p, "adakv",
            pipeline{pooled, adakv{{.budget = 60, .kv_heads = heads, .safeguard = safe}}}, bytes);
  for (auto const rule : {pyramid::exact, pyramid::authors, pyramid::kvpress})
    compare(p, "pyramidkv",
            pipeline{pooled,
                     pyramidkv{
                         {.budget = 60, .layers = p.e.sequences, .kv_heads = heads, .rule = rule}}},
            bytes);
  compare(p, "dynamickv",
          pipeline{pooled, dynamickv{{.budget = 60, .layers = p.e.sequences, .kv_heads = heads}}},
          bytes);
  for (index_t const size : {1, 7, 300})
    compare(p, "chunkkv", pipeline{given_scores{}, keep, chunkkv{{.size = size}}}, bytes);
  for (float const part : {0.01f, 0.8f, 1.0f})
    for (index_t const budget : {0, 70})
      compare(p, "coverage",
              pipeline{given_scores{}, coverage{{.part = part, .budget = budget, .recent = 9}}},
              bytes);
  compare(p, "corm", pipeline{corm{}, at_least{{.least = -5.0f, .recent = 9}}}, bytes);
  compare(p, "scissorhands", pipeline{scissorhands<>{}, keep}, bytes);
  compare(p, "windowkv",
          pipeline{shared{given_scores{}, row_group{p.e.sequences, heads}, reduce::mean, true},
                   windowkv{{.budget = 40,
                             .layers = p.e.sequences,
                             .kv_heads = heads,
                             .group_layers = 1,
                             .size = 9,
                             .recent = 7}},
                   chunkkv{{.size = 9}}},
          bytes);
  compare(p, "roco", pipeline{roco{{.budget = keep.opt.budget, .last = 8}}, keep}, bytes);
  compare(p, "lazy_eviction", pipeline{lazy_eviction{}, keep}, bytes);
  compare(p, "at_least", pipeline{given_scores{}, at_least{{.least = 100.0f, .recent = 7}}}, bytes);
  cake_scores const moments{{.window = 16}};
  compare(p, "cake_scores", pipeline{moments, keep}, bytes);
  compare(p, "cake",
          pipeline{moments,
                   cake{{.budget = 60, .layers = p.e.sequences, .kv_heads = heads, .slack = 4}}},
          bytes);
  for (auto const anchor : {code_anchor::alternating, code_anchor::mean, code_anchor::given})
    for (index_t const page : {1, 4})
      compare(p, "kvcrush",
              pipeline{given_scores{}, keep,
                       kvcrush{{.page = page,
                                .anchor = anchor,
                                .spaced = page == 1 ? spacing::stride : spacing::ends,
                                .bits = 0xb5}}},
              bytes);
  compare(p, "kvmerger", pipeline{given_scores{}, keep, kvmerger{{.threshold = 0.0f}}}, tokens);
  compare(p, "kvmerger without a quota", pipeline{given_scores{}, kvmerger{{.threshold = 0.0f}}},
          tokens);
  for (bool const draws : {false, true})
    compare(p, "cam", pipeline{given_scores{}, keep, cam{{.window = 6, .draws = draws}}}, tokens);
  for (auto const weights : {d2o_weights::counted, d2o_weights::softmax})
    compare(p, "d2o", pipeline{given_scores{}, keep, d2o{{.weights = weights}}}, tokens);
  compare(p, "d2o, running", pipeline{given_scores{}, keep, d2o{{.running = true}}}, tokens);
  compare(p, "chelsea",
          pipeline{given_scores{}, chelsea{{.chunk = 24, .part = 0.6f, .mass_bias = true}}},
          tokens);
  compare(p, "compensation_token", pipeline{given_scores{}, keep, compensation_token{}}, tokens);
  for (auto const filter : {fold_filter::none, fold_filter::mean, fold_filter::places})
    compare(p, "lookm",
            pipeline{given_scores{}, keep,
                     lookm{{.merge = lookm_merge::weighted, .filter = filter, .mass_bias = true}}},
            tokens);
  tables(p);
}

}  // namespace

int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("skipped: no CUDA device\n");
    return 77;
  }
  for (auto const& p :
       {problem{"plain", {2, 2, 200, 64}, {}, 4},
        problem{"any order, padding, pins, ragged heads",
                {3, 2, 150, 32},
                {.lengths = true, .positions = true, .valid = true, .per_head = true},
                5}}) {
    every_method(p);
    stored_forms(p);
  }
  other_shapes();
  std::printf(failures == 0 ? "both backends agree\n" : "%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
