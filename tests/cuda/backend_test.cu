// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// The same policies, plans and data on both backends: identical kept sets, codes and stored bytes,
// attention within the bound. Exits 77 (skipped) where there is no GPU. Run under compute-sanitizer
// where there is one.

#include "both.hpp"
#include "own_codecs.hpp"
#include "support/own_basis.hpp"
#include "support/policies.hpp"

using namespace on_device;
using namespace kvslim;

namespace {

struct problem {
  char const* name;
  extents e;
  traits has;
  index_t group;
};

/// How far the backends' bytes must agree: all of them; tokens and values, where a scorer's
/// rounding may show in columns; or tokens alone, where rows are computed from others.
enum class exactness { bytes, tokens };

template <class Policy, class OnGpu>
void compare_tables(problem const& p, char const* method, Policy const& policy, OnGpu const& on_gpu,
                    exactness exact, index_t append = 5) {
  char name[128];
  std::snprintf(name, sizeof name, "%s, %s", p.name, method);
  cells const c(p.e, p.has, 5);
  index_t const window = 16;
  asked_rows<float> const q({p.e.sequences, p.e.kv_heads * p.group, window, p.e.head_dim}, 8);
  asked_rows<f16> const filters({p.e.sequences, p.e.kv_heads, 1, p.e.head_dim}, 9);
  index_t const heads = p.e.kv_heads * p.group, dim = p.e.head_dim;
  asked_rows<bf16> const raw({p.e.sequences, heads, p.e.tokens, dim}, 10);
  asked_rows<float> const means({1, heads, 1, dim}, 11), covariances({1, heads, dim, dim}, 12);
  asked_rows<bf16> const probing({p.e.sequences, heads, 100, dim}, 13),
      own({p.e.sequences, p.e.kv_heads, 100, dim}, 14);
  probe_stretch const stretches[] = {{0, 70, 3, 45}, {75, 25, 50, 90}};
  slice<probe_stretch const> const parts{stretches, 2};
  asked_rows<f16> const weights({p.e.sequences, heads, p.e.value_width(), 45}, 15);
  std::vector<float> scores(static_cast<std::size_t>(p.e.rows() * p.e.tokens));
  for (std::size_t i = 0; i < scores.size(); ++i) scores[i] = static_cast<float>(i * 7919 % 211);
  device<float> const dscores(scores);
  plan_options const options{
      .append_tokens = append, .positions = p.has.positions || p.has.valid, .biases = p.has.bias};
  stored s(make_plan(policy, p.e, options));
  passed(s.plan.check(), name);
  s.compress(
      c,
      evidence{window_queries<>{q.on_host()}, token_scores<>{scores.data()},
               query_filters<>{filters.on_host()}, raw_queries<>{raw.on_host()},
               query_statistics<>{means.on_host(), covariances.on_host()},
               probes<>{probing.on_host(), own.on_host(), parts},
               output_projection<>{weights.on_host()}},
      evidence{window_queries<cuda_space>{q.on_gpu()}, token_scores<cuda_space>{dscores.get()},
               query_filters<cuda_space>{filters.on_gpu()}, raw_queries<cuda_space>{raw.on_gpu()},
               query_statistics<cuda_space>{means.on_gpu(), covariances.on_gpu()},
               probes<cuda_space>{probing.on_gpu(), own.on_gpu(), parts},
               output_projection<cuda_space>{weights.on_gpu()}},
      name, make_plan(on_gpu, p.e, options));
  s.same(name, exact == exactness::bytes, exact == exactness::bytes);
  double error = 0.0;
  for (index_t const splits : {1, 3})
    error = std::max(
        error, attend_both(s, {.group = p.group, .splits = splits, .logits = splits == 1}, name));
  std::printf("  %-70s relative error of attention %.1e\n", name, error);
}

template <class Policy>
void compare(problem const& p, char const* method, Policy const& policy, exactness exact,
             index_t append = 5) {
  compare_tables(p, method, policy, policy, exact, append);
}

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
  compare(p, "gear 4", gear<4>{{.group = 32, .outliers = 0.05f, .value_group = 16}}, tokens, 70);
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
  compare(p, "snapkv", pipeline{snapkv{{.window = 16}}, keep, int_per_token<8>{}}, bytes);
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
  for (bool const draws : {false, true})
    compare(p, "cam", pipeline{given_scores{}, keep, cam{{.window = 6, .draws = draws}}}, tokens);
  for (auto const filter : {fold_filter::none, fold_filter::mean, fold_filter::places})
    compare(p, "lookm",
            pipeline{given_scores{}, keep,
                     lookm{{.merge = lookm_merge::weighted, .filter = filter, .mass_bias = true}}},
            tokens);
  tables(p);
}

/// Baselines, budgets over layers, and every type of llama.cpp's.
void baselines(problem const& p) {
  auto const bytes = exactness::bytes;
  row_group const layers{p.e.sequences, p.e.kv_heads};
  top_k const keep{{.budget = p.e.tokens / 3, .sinks = 2, .recent = 5}};
  random_scores const chance{{.seed = 3}};
  compare(p, "knorm", pipeline{knorm{}, keep}, bytes);
  compare(p, "random_scores", pipeline{chance, keep}, bytes);
  compare(p, "one_budget",
          pipeline{chance, one_budget{{.budget = 40, .rows = layers, .sinks = 2, .recent = 7}}},
          bytes);
  compare(p, "one_budget, of each sequence",
          pipeline{knorm{}, one_budget{{.budget = 31, .rows = {1, p.e.kv_heads}}}, kivi<4>{}},
          bytes);
  using block = ggml_block;
  compare(p, "ggml q8_0, q4_0", ggml<block::q8_0, block::q4_0>{}, bytes);
  compare(p, "ggml q5_1, a tail", ggml<block::q5_1>{{.residual = 20}}, bytes);
  compare(p, "ggml q4_1, q5_0", pipeline{knorm{}, keep, ggml<block::q4_1, block::q5_0>{}}, bytes);
  compare(p, "codec_pair", codec_pair{token_key<8>{.residual = 9}, token_value<2>{.group = 32}},
          bytes);
  compare(p, "codec_pair, of blocks and tokens",
          codec_pair{channel_key<4>{.residual = 32}, dense_value<e5m2>{}}, bytes);
}

void grouped(problem const& p) {
  compare(p, "codecs over two sequences", paired_sequences{}, exactness::bytes);
  compare(p, "minicache", minicache<>{{.block = 32}}, exactness::bytes, 40);
  compare(p, "xkv", xkv<>{{.rows = {2, 3}, .key_rank = 20, .value_rank = 40, .rounds = 3}},
          exactness::tokens, 40);
  compare(p, "minicache, f32, after a selection",
          pipeline{shared{given_scores{}, row_group{2, 1}}, top_k{{.budget = 70, .recent = 8}},
                   minicache<float>{{.retained = 0.2f, .depth = 0.3f}}},
          exactness::bytes);
}

/// Sums in a basis of the codec's, of as many coordinates as channels, of more and of fewer.
void other_bases(problem const& p) {
  using own_basis::turn, own_basis::turned;
  top_k const keep{{.budget = p.e.tokens / 2 + 1, .sinks = 4, .recent = 8}};
  for (turn const kind : {turn::reversed, turn::padded, turn::pairs})
    compare(p, "a basis of one's own",
            pipeline{given_scores{}, keep, codec_pair{turned<>{kind, 9}, turned<>{kind, 9}}},
            exactness::bytes);
  compare(p, "rotated", rotated{int_per_token<4>{{.residual = 7}}, {.seed = 3}}, exactness::bytes);
  compare(p, "rotated blocks", pipeline{given_scores{}, keep, rotated{kivi<2>{{.residual = 32}}}},
          exactness::bytes);
  compare(p, "a fitted basis", codec_pair{turned<true>{turn::pairs}, token_value<4>{}},
          exactness::bytes);
  compare(p, "V in a fitted basis", codec_pair{channel_key<4>{.residual = 32}, turned<true>{}},
          exactness::bytes);
  compare(p, "xkv of each head",
          xkv<>{{.rows = {1, 1}, .key_rank = 12, .value_rank = 20, .residual = 3}},
          exactness::tokens, 40);
}

/// Positions that are moved, with and without merged rows before.
void moved(problem const& p) {
  top_k const keep{{.budget = p.e.tokens / 2 + 1, .sinks = 4, .recent = 8}};
  compare(p, "rerotated", pipeline{streaming_llm{}, keep, rerotate{}, int_per_token<8>{}},
          exactness::tokens);
  compare(p, "merged and rerotated",
          pipeline{given_scores{}, keep, kvmerger{{.threshold = 0.0f, .mass_bias = true}},
                   rerotate{}, kivi<4>{{.residual = 32}}},
          exactness::tokens);
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
    baselines(p);
    other_bases(p);
  }
  grouped({"plain", {2, 3, 90, 32}, {}, 1});
  moved({"plain", {2, 2, 150, 64}, {}, 1});
  moved({"biases, any order",
         {2, 2, 150, 32},
         {.lengths = true, .positions = true, .valid = true, .bias = true, .per_head = true},
         2});
  compare({"wide heads", {1, 1, 70, 576, 512}, {}, 8}, "int 8", int_per_token<8>{},
          exactness::bytes);
  compare({"five channels", {1, 1, 70, 4, 5}, {}, 2}, "dense f16", dense<f16>{}, exactness::bytes);
  std::printf(failures == 0 ? "both backends agree\n" : "%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
