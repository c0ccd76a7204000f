// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// attend() on every path, over caches and with requests of shapes that nobody chose, drawn from a
// seed: after a prompt and tokens that came one by one, against attention in double. More of them:
// KVSLIM_DRAWN=1000 and KVSLIM_SEED=7 in the environment.

#include "support/catch.hpp"
#include "support/life.hpp"
#include "support/oracle.hpp"
#include "support/paths.hpp"
#include "support/tolerance.hpp"

#include <cstdlib>
#include <random>

using namespace kvslim;

namespace {

/// Numbers of one seed; the same ones whatever the library's distributions are.
class numbers {
 public:
  explicit numbers(unsigned seed) : engine_(seed) {}
  /// One of [first, last].
  index_t pick(index_t first, index_t last) {
    return first + static_cast<index_t>(engine_() % static_cast<unsigned>(last - first + 1));
  }
  /// True once in `of` times.
  bool chance(index_t of) { return pick(1, of) == 1; }
  template <class T, std::size_t N>
  T one_of(T const (&some)[N]) {
    return some[pick(0, N - 1)];
  }

 private:
  std::mt19937 engine_;
};

data::shape any_shape(numbers& from) {
  constexpr index_t widths[] = {8,  16, 20,  24,  32,  33,  37,  40,  48,  64, 72,
                                80, 96, 100, 112, 128, 136, 144, 160, 192, 256};
  data::shape s{.sequences = from.pick(1, 2),
                .kv_heads = from.pick(1, 3),
                .group = from.pick(1, 17),
                .tokens = from.chance(2) ? from.pick(1, 70) : from.pick(71, 420),
                .head_dim = from.one_of(widths)};
  if (from.chance(3)) s.value_dim = from.one_of(widths);
  return s;
}

template <class Policy>
void draw(char const* form, Policy const& policy, numbers& from) {
  plan_options const options{.append_tokens = from.pick(0, 70)};
  data::shape s = any_shape(from);  // of those that the policy takes
  while (!make_plan(policy, s.extents(), options).check()) s = any_shape(from);
  data::cache c(s, static_cast<unsigned>(from.pick(1, 100000)));
  float const key_size = from.one_of({0.1f, 1.0f, 2.0f}), size = from.one_of({1e-3f, 1.0f, 20.0f});
  for (float& x : c.k) x *= key_size;
  for (float& x : c.v) x *= size;
  INFO(form << ", " << s.sequences << " x " << s.kv_heads << " rows of " << s.tokens << " and "
            << options.append_tokens << " tokens, " << s.head_dim << " and " << s.value_width()
            << " channels, group " << s.group << ", K times " << key_size << ", V " << size);
  data::compressed const run(policy, c.view(), evidence{}, options);
  REQUIRE(run.result.ok());
  data::life life(run.packed, c);
  for (index_t i = 0; i < options.append_tokens; ++i) {
    REQUIRE(life.append().ok());
    REQUIRE(life.settle().ok());
  }
  auto const decoded = oracle::rows_of(run.packed);
  index_t const queries = from.pick(1, 4), window = from.chance(2) ? from.pick(1, 200) : 0,
                splits = from.pick(1, 4);
  bool const base2 = from.chance(3), logits = from.chance(2);
  INFO(queries << " queries, window " << window << ", " << splits << " splits, base2 " << base2
               << ", logits " << logits);
  data::on_each_path([&](isa::path) {
    for (auto const precision : {attend_precision::tight, attend_precision::fast}) {
      oracle::asked asked(run.packed, c.queries(queries), logits);
      auto& request = asked.request;
      request.precision = precision;
      request.window = window;
      request.splits = splits;
      request.base2 = base2;
      data::buffer const scratch(
          attend_bytes(run.packed.layout(), request.q.heads, queries, splits));
      REQUIRE(attend(cpu{}, run.packed, request, scratch).ok());
      CHECK(oracle::error_of(run.packed, request, decoded) <=
            (precision == attend_precision::tight ? tolerance::attend : tolerance::attend_fast));
      CHECK(scratch.intact());
    }
  });
  CHECK(run.intact());
}

void draw_one(index_t form, numbers& from) {
  auto const residual = from.pick(0, 40), blocks = 32 * from.pick(1, 3);
  switch (form) {
    case 0:
      return draw("f16", dense<f16>{}, from);
    case 1:
      return draw("bf16", dense<bf16>{}, from);
    case 2:
      return draw("e4m3", dense<e4m3>{}, from);
    case 3:
      return draw("int 8", int_per_token<8>{{.residual = residual}}, from);
    case 4:
      return draw("int 4", int_per_token<4>{{.residual = residual}}, from);
    case 5:
      return draw("int 3", int_per_token<3>{}, from);
    case 6:
      return draw("int 2", int_per_token<2>{}, from);
    case 7:
      return draw("kivi 8", kivi<8>{{.residual = blocks}}, from);
    case 8:
      return draw("kivi 4", kivi<4>{{.residual = blocks, .value_group = 16}}, from);
    case 9:
      return draw("kivi 2", kivi<2>{{.residual = blocks}}, from);
    case 10:
      return draw("kivi 1", kivi<1>{{.residual = blocks}}, from);
    case 11:
      return draw("kivi 5 and 6", kivi<5, 6, bf16>{{.residual = blocks}}, from);
    case 12:
      return draw("q8_0", ggml<ggml_block::q8_0>{{.residual = residual}}, from);
    case 13:
      return draw("q4_0", ggml<ggml_block::q4_0>{{.residual = residual}}, from);
    case 14:
      return draw("rotated int 4", rotated{int_per_token<4>{}}, from);
    default:
      return draw("gear 4", gear<4>{}, from);
  }
}

unsigned environment(char const* name, unsigned otherwise) {
  char const* const value = std::getenv(name);
  return value != nullptr ? static_cast<unsigned>(std::strtoul(value, nullptr, 10)) : otherwise;
}

}  // namespace

TEST_CASE("every path serves caches of drawn shapes", "[isa][attend]") {
  unsigned const seed = environment("KVSLIM_SEED", 1), count = environment("KVSLIM_DRAWN", 64);
  numbers from(seed);
  for (unsigned i = 0; i < count; ++i) {
    INFO("cache " << i << " of seed " << seed);
    draw_one(i % 16, from);
  }
}
