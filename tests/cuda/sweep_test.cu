// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Caches, appended tokens and requests of shapes that nobody chose, on both backends: what is
// stored after every step, and attention. Arguments: how many caches, and a seed. Exits 77
// (skipped) where there is no GPU.

#include "drawn.hpp"

using namespace on_device;
using namespace kvslim;

namespace {

/// Of a policy: whether both backends store the same values, and KV heads of a sequence that share
/// blocks (0: none).
struct limits {
  bool same_values = true;
  index_t group = 0;
};

extents any_extents(index_t group) {
  extents e{pick(1, 3), pick(1, 3), chance(2) ? pick(1, 40) : pick(41, 250)};
  e.head_dim =
      pick({1, 2, 7, 16, 24, 32, 33, 40, 48, 64, 67, 80, 96, 100, 112, 128, 144, 160, 256});
  if (chance(4)) e.value_dim = pick({1, 5, 16, 32, 48, 64, 72, 96, 128});
  if (group > 0) {
    e.sequences = 1;
    e.kv_heads = 2 * group;
  }
  return e;
}

ask any_ask(extents const& e) {
  return {.group = pick({1, 2, 3, 4, 5, 6, 8, 9, 12, 16}),
          .tokens = pick(1, 3),
          .splits = pick(1, 5),
          .window = chance(2) ? pick(1, 300) : 0,
          .positions = chance(3),
          .spans = chance(3),
          .sinks = chance(3),
          .logits = chance(3),
          .active = chance(4),
          .base2 = chance(3),
          .some_sequences = e.sequences > 1 && chance(4),
          .seed = static_cast<unsigned>(pick(1, 10000))};
}

template <class Policy>
void sweep(char const* method, Policy const& policy, limits const& of = {}) {
  bool const single = of.group > 0;
  traits const has{.lengths = !single && chance(3),
                   .positions = chance(2),
                   .valid = !single && chance(3),
                   .bias = chance(3),
                   .per_head = !single && chance(3)};
  index_t const more = pick(0, 40);
  plan_options const options{.append_tokens = 80,
                             .draft_tokens = 40,
                             .positions = has.positions || has.valid,
                             .biases = has.bias};
  extents e = any_extents(of.group);  // of those that the policy takes
  for (int i = 0; i < 200 && !make_plan(policy, e, options).check(); ++i) e = any_extents(of.group);
  auto const plan = make_plan(policy, e, options);
  char name[160];
  std::snprintf(name, sizeof name, "%s, %d x %d rows of %d tokens, %d and %d channels, %d more",
                method, static_cast<int>(e.sequences), static_cast<int>(e.kv_heads),
                static_cast<int>(e.tokens), static_cast<int>(e.head_dim),
                static_cast<int>(e.value_width()), static_cast<int>(more));
  passed(plan.check(), name);
  int const before = failures;
  stored s(plan);
  cells const c(e, has, static_cast<unsigned>(pick(1, 10000)));
  s.compress(c, evidence<>{}, evidence<>{}, name);
  s.same(name, false, of.same_values);
  s.upload();
  data::buffer const appending(append_bytes(plan.layout())), settling(settle_bytes(plan.layout()));
  device_scratch const appending_there(appending.size()), settling_there(settling.size());
  for (unsigned step = 0; step < 2 && more > 0 && failures == before; ++step) {
    asked_rows<f16> const k({e.sequences, e.kv_heads, more, e.head_dim}, 21 + step),
        v({e.sequences, e.kv_heads, more, e.value_width()}, 31 + step);
    passed(append(cpu{}, s.on_host, k.on_host(), v.on_host(), appending), name);
    passed(append(gpu, s.on_gpu, k.on_gpu(), v.on_gpu(), appending_there), name);
    synchronized("append ran", name);
    s.same(name, false, of.same_values);
    passed(settle(cpu{}, s.on_host, settling), name);
    passed(settle(gpu, s.on_gpu, settling_there), name);
    synchronized("settle ran", name);
    s.same(name, false, of.same_values);
    s.upload();
  }
  for (int i = 0; i < 3; ++i) {
    ask const a = any_ask(e);
    int const so_far = failures;
    attend_both(s, a, name);
    if (failures != so_far)
      std::printf(
          "  group %d, tokens %d, splits %d, window %d; %d positions, %d spans, %d sinks, "
          "%d logits, %d active, %d base2, %d some sequences\n",
          static_cast<int>(a.group), static_cast<int>(a.tokens), static_cast<int>(a.splits),
          static_cast<int>(a.window), a.positions, a.spans, a.sinks, a.logits, a.active, a.base2,
          a.some_sequences);
  }
}

void one_cache(index_t which) {
  limits const sums{.same_values = false};
  switch (which) {
    case 0:
      return sweep("f16", dense<f16>{});
    case 1:
      return sweep("bf16", dense<bf16>{});
    case 2:
      return sweep("e4m3", dense<e4m3>{});
    case 3:
      return sweep("int 8", int_per_token<8>{{.residual = pick(0, 40)}});
    case 4:
      return sweep("int 4", int_per_token<4>{{.residual = pick(0, 40)}});
    case 5:
      return sweep("int 2", int_per_token<2>{});
    case 6:
      return sweep("kivi 4", kivi<4>{{.residual = 32 * pick(1, 3)}});
    case 7:
      return sweep("kivi 2", kivi<2>{{.residual = 32 * pick(1, 3)}});
    case 8:
      return sweep("fp8", fp8<e4m3, e5m2>{{.residual = pick(0, 20)}});
    case 9:
      return sweep("gear 4", gear<4>{}, sums);
    case 10:
      return sweep("rotated int 4", rotated{int_per_token<4>{}}, sums);
    case 11:
      return sweep("zipcache", zipcache<4>{});
    case 12:
      return sweep("latents",
                   codec_pair{latent<dense_key<f16>>{.rank = pick(1, 16), .rounds = 2},
                              latent<dense_value<f16>>{.rank = pick(1, 16), .rounds = 2}},
                   sums);
    case 13:
      return sweep("xkv",
                   xkv<>{{.rows = {1, 2},
                          .key_rank = pick(1, 30),
                          .value_rank = pick(1, 30),
                          .residual = pick(0, 9),
                          .rounds = 2}},
                   {.same_values = false, .group = 2});
    default:
      return sweep("norms, kivi 8",
                   pipeline{knorm{}, top_k{{.budget = pick(1, 150), .recent = 5}}, kivi<8>{}});
  }
}

}  // namespace

int main(int count, char** words) {
  return draw_caches(count, words, 30, [](int i) { one_cache(i % 15); });
}
