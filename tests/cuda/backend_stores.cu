// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// The backend test's rows about what is stored, apart from those about what is kept: two units
// build side by side.

#include "backend.hpp"
#include "own_codecs.hpp"
#include "support/own_basis.hpp"
#include "support/policies.hpp"

using namespace on_device;
using namespace kvslim;

namespace {

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
  compare(p, "fp8, a group's scales", fp8<e4m3, e5m2>{{.residual = 9, .group = 16}}, bytes);
  compare(p, "fp4", pipeline{knorm{}, keep, fp4<fp4_block::nvfp4, fp4_block::mxfp4>{}}, bytes);
  compare(p, "codec_pair", codec_pair{token_key<3>{.residual = 9}, token_value<5>{.group = 32}},
          bytes);
  compare(p, "codec_pair, of blocks and tokens",
          codec_pair{channel_key<6>{.residual = 32}, dense_value<e5m2>{}}, bytes);
}

void grouped(problem const& p) {
  compare(p, "codecs over two sequences", paired_sequences{}, exactness::bytes);
  compare(p, "minicache", minicache<>{{.block = 32}}, exactness::bytes, 40);
  compare(p, "xkv", xkv<>{{.rows = {2, 3}, .key_rank = 20, .value_rank = 40, .rounds = 3}},
          exactness::tokens, 40);
  compare(p, "shadowkv", shadowkv<>{{.kv_heads = 3, .rank = 20, .local = 5, .rounds = 3}},
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
  compare(p, "centred", pipeline{given_scores{}, keep, centred<5, 3>{{.residual = 7}}},
          exactness::bytes);
  compare(p, "mustafar",
          pipeline{given_scores{}, keep, mustafar<>{{.key_share = 0.7f, .residual = 7}}},
          exactness::bytes);
  compare(p, "turboquant", pipeline{given_scores{}, keep, turboquant<4, 3>{{.residual = 7}}},
          exactness::bytes);
  compare(p, "turboquant, inner products",
          turboquant<3, 1, turbo_form::inner, turbo_form::inner>{
              {.seed = 0, .length = turbo_length::least}},
          exactness::bytes);
  compare(p, "rotated blocks", pipeline{given_scores{}, keep, rotated{kivi<2>{{.residual = 32}}}},
          exactness::bytes);
  compare(p, "a fitted basis", codec_pair{turned<true>{turn::pairs}, token_value<4>{}},
          exactness::bytes);
  compare(p, "V in a fitted basis", codec_pair{channel_key<4>{.residual = 32}, turned<true>{}},
          exactness::bytes);
  compare(p, "xkv of each head",
          xkv<>{{.rows = {1, 1}, .key_rank = 12, .value_rank = 20, .residual = 3}},
          exactness::tokens, 40);
  compare(p, "zipcache", pipeline{given_scores{}, keep, zipcache<4>{{.residual = 7}}},
          exactness::bytes);
  compare(p, "kvquant, levels of the prompt",
          pipeline{given_scores{}, keep, kvquant<2, 3, codebook_from::prompt>{}}, exactness::tokens,
          40);
  compare(p, "xkv of each head, keys as given",
          xkv<f16, key_form::as_given>{{.rows = {1, 1}, .key_rank = 12, .value_rank = 20}},
          exactness::tokens, 40);
}

/// Rows whose state is fitted say what they cannot hold.
void fitted_rows_say_failed(problem const& p) {
  char const* const name = "a fitted row with infinity";
  top_k const keep{{.budget = p.e.tokens / 2 + 1, .sinks = 4, .recent = 8}};
  cells const c(p.e, p.has, 5);
  float const infinity = INFINITY;
  cudaMemcpy(c.dk.get() + p.e.tokens * p.e.head_dim + 7, &infinity, sizeof infinity,
             cudaMemcpyHostToDevice);
  stored s(make_plan(pipeline{given_scores{}, keep, centred<5, 3>{{.residual = 7}}}, p.e));
  std::vector<std::int64_t> begins;
  std::vector<std::int32_t> list;
  for (index_t r = 0; r <= p.e.rows(); ++r) begins.push_back(r * 20);
  for (index_t i = 0; i < p.e.rows() * 20; ++i)
    list.push_back(static_cast<std::int32_t>(i % 20 + (i % 20 < 9 ? 0 : p.e.tokens - 20)));
  device<std::int64_t> const dbegins(begins);
  device<std::int32_t> const dlist(list);
  device_scratch const memory(s.plan.encode_bytes());
  passed(encode(gpu, s.plan, c.view<cuda_space>(), {.begins = dbegins.get(), .cells = dlist.get()},
                s.on_gpu, memory),
         name);
  synchronized("encode ran", name);
  check(s.row(0).failed == 0 && s.row(1).failed == static_cast<int>(errc::non_finite),
        "the second row says so", name);
}

/// A codec that reads tables, in either memory.
template <class Policy>
void bound(problem const& p, char const* method, Policy const& policy) {
  char name[128];
  std::snprintf(name, sizeof name, "%s, %s", p.name, method);
  cells const c(p.e, p.has, 5);
  std::vector<float> basis(static_cast<std::size_t>(p.e.rows() * 80 * p.e.head_dim));
  for (std::size_t i = 0; i < basis.size(); ++i)
    basis[i] = static_cast<float>(i * 7919 % 211) * 1e-3f - 0.1f;
  device<float> const on_gpu(basis);
  stored s(make_plan(policy, p.e, {.append_tokens = 5, .positions = true}));
  s.tables = {basis.data(), basis.data()};
  s.on_host.bind(s.tables);
  s.on_gpu.bind({on_gpu.get(), on_gpu.get()});
  s.compress(c, evidence<>{}, evidence<>{}, name);
  s.same(name, false, false);
  std::printf("  %-70s relative error of attention %.1e\n", name,
              attend_both(s, {.group = p.group}, name));
}

void bound(problem const& p) {
  index_t const layers = p.e.sequences, heads = p.e.kv_heads;
  bound(
      p, "cskv",
      cskv<>{{.layers = layers, .kv_heads = heads, .key_rank = 20, .value_rank = 40, .window = 6}});
  bound(p, "cskv, 4 bit",
        cskv<f16, 4>{{.layers = layers,
                      .kv_heads = heads,
                      .key_rank = 20,
                      .value_rank = 12 * heads,
                      .window = 6}});
  bound(
      p, "palu",
      palu<4>{
          {.layers = layers, .kv_heads = heads, .heads = heads, .key_rank = 20, .value_rank = 40}});
  bound(p, "kvquant", kvquant<3, 4>{{.layers = layers, .kv_heads = heads}});
  bound(p, "eigen_attention",
        eigen_attention<>{{.layers = layers, .kv_heads = heads, .key_rank = 21, .value_rank = 14}});
  bound(
      p, "matryoshkakv",
      matryoshkakv<>{
          {.layers = layers, .kv_heads = heads, .key_rank = 21, .value_rank = 14, .residual = 5}});
}

/// Channels that queries choose, or keys balanced against them, in either memory.
template <class Policy>
void told(problem const& p, char const* method, Policy const& policy) {
  char name[128];
  std::snprintf(name, sizeof name, "%s, %s", p.name, method);
  cells const c(p.e, p.has, 5);
  asked_rows<f16> const q({p.e.sequences, p.e.kv_heads * p.group, 20, p.e.head_dim}, 8);
  std::vector<float> said(static_cast<std::size_t>(p.e.rows() * p.e.head_dim));
  device<float> const on_gpu(said.size());
  rows<> const asked(q.on_host());
  rows<cuda_space> const asked_there(q.on_gpu());
  if constexpr (requires { decltype(policy.key_codec())::from; }) {
    passed(ops::key_balance(cpu{}, asked, c.view<host_space>(), said.data()), name);
    passed(ops::key_balance(gpu, asked_there, c.view<cuda_space>(), on_gpu.get()), name);
  } else {
    passed(ops::query_energy(cpu{}, asked, p.e.kv_heads, said.data()), name);
    passed(ops::query_energy(gpu, asked_there, p.e.kv_heads, on_gpu.get()), name);
  }
  synchronized("the queries' table was made", name);
  stored s(make_plan(policy, p.e, {.append_tokens = 5, .positions = true}));
  s.on_host.bind({.key = said.data()});
  s.on_gpu.bind({.key = on_gpu.get()});
  s.compress(c, evidence<>{}, evidence<>{}, name);
  s.same(name, true);
  std::printf("  %-70s relative error of attention %.1e\n", name,
              attend_both(s, {.group = p.group}, name));
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

/// The cells of `from` in 16 bits, at a multiple of 16 bytes or `shift` elements behind one.
struct f16_cells {
  cells const& from;
  index_t shift;
  std::vector<f16> k = narrow(from.k, shift), v = narrow(from.v, shift);
  device<f16> dk{k}, dv{v};

  template <class Space>
  [[nodiscard]] auto view() const {
    constexpr bool host = std::is_same_v<Space, host_space>;
    auto const at = [&](auto const& a, auto const& b) {
      return static_cast<f16 const*>(host ? a.data() : b.get()) + shift;
    };
    auto const of = from.view<Space>();
    auto out = dense_cache<Space>(at(k, dk), at(v, dv), from.e);
    out.lengths = of.lengths;
    out.positions = of.positions;
    out.valid = of.valid;
    return out;
  }

 private:
  static std::vector<f16> narrow(std::vector<float> const& x, index_t shift) {
    std::vector<f16> y(static_cast<std::size_t>(shift));
    for (float const value : x) y.push_back(from_float<f16>(value));
    return y;
  }
};
/// Warps read 16 bytes of such rows at once where they can: the same bytes are stored.
void of_16_bits(extents const& e, traits const& has, char const* name) {
  cells const c(e, has, 7);
  for (index_t const shift : {0, 3}) {
    stored s(make_plan(pipeline{knorm{}, top_k{{.budget = e.tokens / 2}}, int_per_token<4>{}}, e,
                       {.positions = has.positions}));
    s.compress(f16_cells{c, shift}, evidence{}, evidence{}, name);
    s.same(name, true);
  }
}

}  // namespace

void on_device::stored_forms(problem const& p) {
  baselines(p);
  other_bases(p);
}

void on_device::other_shapes() {
  grouped({"plain", {2, 3, 90, 32}, {}, 1});
  bound({"plain", {2, 3, 90, 32}, {}, 2});
  bound({"any order, padding",
         {2, 2, 120, 64},
         {.lengths = true, .positions = true, .valid = true},
         4});
  think_options const few{.recent = 6, .multiple = 4};
  problem const plain{"plain", {2, 3, 90, 32}, {}, 1};
  problem const scattered{"any order, padding",
                          {2, 2, 120, 64},
                          {.lengths = true, .positions = true, .valid = true},
                          4};
  fitted_rows_say_failed(plain);
  told(plain, "think", think{dense<f16>{}, few});
  told(scattered, "think, KIVI 2 bit", think{kivi<2>{{.residual = 32}}, few});
  told(plain, "mikv, 2 bit", mikv<2>{});
  told(scattered, "mikv, 4 bit", mikv<4>{{.residual = 7}});
  moved({"plain", {2, 2, 150, 64}, {}, 1});
  moved({"biases, any order",
         {2, 2, 150, 32},
         {.lengths = true, .positions = true, .valid = true, .bias = true, .per_head = true},
         2});
  compare({"wide heads", {1, 1, 70, 576, 512}, {}, 8}, "int 8", int_per_token<8>{},
          exactness::bytes);
  of_16_bits({1, 2, 77, 128, 80}, {}, "f16 rows");
  of_16_bits({2, 2, 61, 80}, {.lengths = true, .positions = true, .valid = true},
             "f16 rows of any order");
  compare({"five channels", {1, 1, 70, 4, 5}, {}, 2}, "dense f16", dense<f16>{}, exactness::bytes);
}
