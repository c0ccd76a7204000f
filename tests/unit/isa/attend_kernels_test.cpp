// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// attend() on every path that this processor has: against attention in double, and the paths
// against each other.

#include "support/catch.hpp"
#include "support/life.hpp"
#include "support/oracle.hpp"
#include "support/paths.hpp"
#include "support/tolerance.hpp"

#include <algorithm>
#include <cstring>
#include <random>

using namespace kvslim;

namespace {

double distance(std::vector<float> const& a, std::vector<float> const& b) {
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    error += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
    norm += std::pow(static_cast<double>(b[i]), 2);
  }
  return norm > 0 ? std::sqrt(error / norm) : std::sqrt(error);
}

/// Spans that begin and end anywhere, in blocks and between them.
struct scattered {
  std::vector<std::int32_t> begin_end, counts;
  scattered(index_t rows, index_t slots) {
    for (index_t r = 0; r < rows; ++r) {
      std::int32_t n = 0;
      for (index_t at = r % 5; n < 6; ++n) {
        index_t const end = std::min(slots, at + 1 + (at * 7 + r) % 41);
        begin_end.push_back(static_cast<std::int32_t>(std::min(at, slots)));
        begin_end.push_back(static_cast<std::int32_t>(end));
        at = end + 1 + at % 3;
      }
      while (n > 0 && begin_end[begin_end.size() - 2 * static_cast<std::size_t>(7 - n)] >= slots)
        --n;
      counts.push_back(n);
    }
  }
};

template <class Policy>
void check(char const* name, Policy const& policy, data::shape const& shape, index_t appended = 5) {
  INFO(name << ", dim " << shape.head_dim << ", values " << shape.value_width() << ", group "
            << shape.group << ", tokens " << shape.tokens);
  data::cache const c(shape);
  data::compressed const run(policy, c.view(), evidence{window_queries{c.queries(16)}},
                             {.append_tokens = appended});
  INFO(run.result.message);
  REQUIRE(run.result.ok());
  data::life life(run.packed, c);
  for (index_t i = 0; i < appended; ++i) {
    REQUIRE(life.append().ok());
    REQUIRE(life.settle().ok());
  }
  auto const rows = c.shape.sequences * c.shape.kv_heads;
  scattered const some(rows, run.packed.slots(0, 0));
  auto const decoded = oracle::rows_of(run.packed);
  std::vector<float> whole, part;
  data::on_each_path([&](isa::path) {
    CHECK(oracle::attend_error(run.packed, c, 1, decoded) <= tolerance::attend);
    CHECK(oracle::attend_error(run.packed, c, 3, decoded) <= tolerance::attend);
    oracle::asked all(run.packed, c.queries(1), true);
    data::buffer scratch(attend_bytes(run.packed.layout(), all.request.q.heads));
    REQUIRE(attend(cpu{}, run.packed, all.request, scratch).ok());
    oracle::asked seen(run.packed, c.queries(1));
    seen.request.visible = {some.begin_end.data(), some.counts.data(), 6};
    REQUIRE(attend(cpu{}, run.packed, seen.request, scratch).ok());
    CHECK(oracle::error_of(run.packed, seen.request, decoded) <= tolerance::attend);
    for (index_t const queries : {1, 3}) {
      oracle::asked quick(run.packed, c.queries(queries));
      quick.request.precision = attend_precision::fast;
      if (queries == 1) quick.request.visible = seen.request.visible;
      data::buffer room(attend_bytes(run.packed.layout(), quick.request.q.heads, queries));
      REQUIRE(attend(cpu{}, run.packed, quick.request, room).ok());
      CHECK(oracle::error_of(run.packed, quick.request, decoded) <= tolerance::attend_fast);
      quick.request.visible = {};
      quick.request.window = queries == 1 ? 0 : 37;
      REQUIRE(attend(cpu{}, run.packed, quick.request, room).ok());
      CHECK(oracle::error_of(run.packed, quick.request, decoded) <= tolerance::attend_fast);
    }
    if (whole.empty()) {
      whole = all.out;
      part = seen.out;
    }
    CHECK(distance(all.out, whole) <= 2 * tolerance::attend);
    CHECK(distance(seen.out, part) <= 2 * tolerance::attend);
  });
  CHECK(run.intact());
}

/// Scratch at the least alignment, and none; values and parameters of any size, which digits may
/// not hold.
template <class Policy>
void check_size(Policy const& policy, float size) {
  INFO("values times " << size);
  data::cache c({.kv_heads = 1, .group = 5, .tokens = 300, .head_dim = 96});
  for (float& x : c.v) x *= size;
  data::compressed const run(policy, c.view());
  REQUIRE(run.result.ok());
  data::on_each_path([&](isa::path) {
    oracle::asked a(run.packed, c.queries(1));
    std::size_t const bytes = attend_bytes(run.packed.layout(), a.request.q.heads);
    for (std::size_t off : {0, 16, 48}) {
      data::buffer room(bytes + 64);
      REQUIRE(attend(cpu{}, run.packed, a.request, workspace{room.data() + off, bytes}).ok());
      CHECK(oracle::error_of(run.packed, a.request) <= tolerance::attend);
    }
    REQUIRE(attend(cpu{}, run.packed, a.request).ok());
    CHECK(oracle::error_of(run.packed, a.request) <= tolerance::attend);
    a.request.precision = attend_precision::fast;
    REQUIRE(attend(cpu{}, run.packed, a.request).ok());
    CHECK(oracle::error_of(run.packed, a.request) <= tolerance::attend_fast);
  });
}

template <class Policy>
void check_shapes(char const* name, Policy const& policy) {
  for (index_t const dim : {64, 80, 96, 112, 128, 256, 20})
    check(name, policy,
          {.kv_heads = 2, .group = dim == 128 ? 4 : 3, .tokens = 75, .head_dim = dim});
  for (index_t const group : {1, 2, 3, 4, 5, 6, 7, 8, 11, 16})
    check(name, policy, {.kv_heads = 1, .group = group, .tokens = 67, .head_dim = 64});
  for (index_t const tokens : {1, 15, 16, 31, 32, 33, 47, 64, 65, 161})
    check(name, policy, {.kv_heads = 1, .group = 4, .tokens = tokens, .head_dim = 32}, 3);
}

}  // namespace

TEST_CASE("the path in use has a name, and can be chosen", "[isa]") {
  isa::path const best = isa::current();
  CHECK(isa::current() == best);
  CHECK(std::strlen(isa::name_of(best)) > 0);
  CHECK(isa::use(isa::path::portable) == isa::path::portable);
  CHECK(isa::current() == isa::path::portable);
  for (auto const wanted : isa::every_path) {
    isa::path const taken = isa::use(wanted);
    CHECK((taken == wanted || taken == detail::probe_path()));
  }
  CHECK(isa::use(best == isa::path::neon ? isa::path::avx512 : isa::path::neon) ==
        detail::probe_path());  // another architecture's
#if defined(__aarch64__)
  CHECK(best == isa::path::neon);
#elif KVSLIM_DETAIL_KERNELS && defined(__AVX512BW__) && defined(__AVX512VL__) && \
    defined(__AVX512DQ__)
  CHECK(best >= isa::path::avx512);
#elif KVSLIM_DETAIL_KERNELS && defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
  CHECK(best >= isa::path::avx2);
#elif !KVSLIM_DETAIL_KERNELS
  CHECK(best == isa::path::portable);
#endif
  CHECK(isa::use(best) == best);
}

TEST_CASE("every path serves exact forms", "[isa][attend]") {
  check_shapes("f16", dense<f16>{});
  check("bf16", dense<bf16>{}, {.kv_heads = 2, .group = 4, .tokens = 70, .head_dim = 72});
  check("f32", dense<float>{}, {.kv_heads = 2, .group = 4, .tokens = 70, .head_dim = 72});
  check("odd dim", dense<f16>{}, {.kv_heads = 1, .group = 3, .tokens = 70, .head_dim = 37});
  check("e4m3", dense<e4m3>{}, {.kv_heads = 2, .group = 4, .tokens = 70, .head_dim = 72});
  check("e5m2", dense<e5m2>{}, {.kv_heads = 2, .group = 4, .tokens = 70, .head_dim = 72});
}

TEST_CASE("every path reads V out of keys", "[isa][attend]") {
  auto const at = [](index_t group, index_t tokens, index_t dim, index_t value_dim) {
    check(
        "a slice", codec_pair{dense_key<f16>{}, slice_of_key{dense_key<f16>{}, dim}},
        {.kv_heads = 1, .group = group, .tokens = tokens, .head_dim = dim, .value_dim = value_dim});
  };
  for (index_t const group : {1, 3, 8, 16}) at(group, 67, 96, 80);
  for (index_t const tokens : {1, 16, 33, 161, 300}) at(4, tokens, 80, 80);
  at(5, 170, 576, 512);
  at(2, 90, 61, 37);
}

TEST_CASE("every path serves integers per token", "[isa][attend]") {
  check_shapes("int8", int_per_token<8>{});
  check_shapes("int4", int_per_token<4>{});
  check_shapes("int4, exact tail", int_per_token<4>{{.residual = 21}});
}

TEST_CASE("every path serves KIVI", "[isa][attend]") {
  for (index_t const group : {8, 16, 32}) {
    auto const at = [&](auto const& policy, index_t dim) {
      check("kivi", policy, {.kv_heads = 1, .group = 4, .tokens = 140, .head_dim = dim}, 40);
    };
    for (index_t const dim : {64, 96, 128, 160}) {
      at(kivi<8>{{.residual = 32, .value_group = group}}, dim);
      at(kivi<4>{{.residual = 32, .value_group = group}}, dim);
      at(kivi<2>{{.residual = 32, .value_group = group}}, dim);
    }
  }
  for (index_t const dim : {80, 112, 40})  // groups of 8 take plain loops
    check("kivi", kivi<2>{{.residual = 64, .value_group = dim == 80 ? 16 : 8}},
          {.kv_heads = 2, .group = 2, .tokens = 150, .head_dim = dim}, 3);
  check("groups of 128 tokens",
        kivi<3, 5, bf16>{{.group = 128, .residual = 128, .value_group = 16}},
        {.kv_heads = 1, .group = 8, .tokens = 300, .head_dim = 80}, 20);
  check("groups across runs", kivi<2>{{.group = 24, .residual = 96, .value_group = 32}},
        {.kv_heads = 1, .group = 4, .tokens = 230, .head_dim = 64}, 20);
  check("float parameters", kivi<2, 4, f16, float>{{.residual = 32}},
        {.kv_heads = 1, .group = 5, .tokens = 130, .head_dim = 64}, 20);
  check("one bit", kivi<1>{{.residual = 32}},
        {.kv_heads = 1, .group = 3, .tokens = 170, .head_dim = 96}, 20);
  check("bf16 parameters", kivi<2, 4, f16, bf16>{{.residual = 32}},
        {.kv_heads = 1, .group = 5, .tokens = 130, .head_dim = 128}, 20);
}

TEST_CASE("every path serves values of any size", "[isa][attend]") {
  for (float const size : {1.0f, 1e-20f, 1e-33f, 1e30f}) {
    check_size(int_per_token<4, float, float>{}, size);
    check_size(kivi<2, 4, float, float>{{.residual = 32}}, size);
  }
}

TEST_CASE("every path serves ggml's types", "[isa][attend]") {
  auto const at = [](auto const& policy) {
    for (index_t const dim : {32, 64, 96, 544})
      check("ggml", policy, {.kv_heads = 1, .group = 3, .tokens = 45, .head_dim = dim});
    for (index_t const group : {1, 2, 4, 5, 6, 7, 8, 16})
      check("ggml", policy, {.kv_heads = 1, .group = group, .tokens = 37, .head_dim = 128});
    for (index_t const group : {1, 5, 8})  // runs by one, two, three and four
      for (index_t const tokens : {100, 195, 230})
        check("ggml", policy, {.kv_heads = 1, .group = group, .tokens = tokens, .head_dim = 160},
              70);
    for (float const size : {1.0f, 1e-4f, 1e4f}) check_size(policy, size);
  };
  at(ggml<ggml_block::q8_0>{});
  at(ggml<ggml_block::q5_0, ggml_block::q5_1>{{.residual = 20}});
  at(ggml<ggml_block::q4_0, ggml_block::q4_1>{});
  at(ggml<ggml_block::q4_1, ggml_block::q5_0>{});
  at(ggml<ggml_block::q5_1, ggml_block::q4_0>{});
}

TEST_CASE("every path serves centred", "[isa][attend]") {
  check_shapes("4 bits", centred<4>{{.residual = 21}});
  for (index_t const dim : {64, 80, 112})  // parts of 4, 2 and 1 bits
    check("6 and 5 bits", centred<6, 5>{{.residual = 0}},
          {.kv_heads = 2, .group = 3, .tokens = 70, .head_dim = dim});
  for (index_t const value_dim : {12, 40, 72, 256})
    check("8 and 1 bits", centred<8, 1>{{.residual = 5}},
          {.kv_heads = 1, .group = 5, .tokens = 90, .head_dim = 96, .value_dim = value_dim});
}

TEST_CASE("every path serves GEAR", "[isa][attend]") {
  for (index_t const group : {1, 3, 4, 6, 8, 9})
    check("gear", gear<4>{}, {.kv_heads = 1, .group = group, .tokens = 150, .head_dim = 128}, 60);
  for (index_t const dim : {64, 80})
    check("many outliers and directions, one range a channel",
          gear<2, 4>{{.group = 32,
                      .residual = 96,
                      .rank = 16,
                      .grown_rank = 5,
                      .outliers = 0.11f,
                      .value_group = 16,
                      .kcvt = true}},
          {.kv_heads = 2, .group = 5, .tokens = 200, .head_dim = dim}, 100);
  check("parts of codes, float parameters, places of two bytes",
        gear<3, 5, f16, float>{{.residual = 512, .rank = 0, .grown_rank = 3, .value_group = 32}},
        {.kv_heads = 1, .group = 2, .tokens = 530, .head_dim = 64, .value_dim = 288}, 3);
  check("groups of one run", gear<4>{{.group = 32, .residual = 128}},
        {.kv_heads = 2, .group = 4, .tokens = 150, .head_dim = 96}, 3);
  check("groups across runs", gear<2>{{.group = 24, .residual = 192, .value_group = 16}},
        {.kv_heads = 1, .group = 3, .tokens = 230, .head_dim = 48}, 3);
  check("GEAR-L", gear_l<2, 2, bf16, bf16>{{.group = 32, .residual = 64}},
        {.kv_heads = 2, .group = 4, .tokens = 170, .head_dim = 96}, 70);
}

TEST_CASE("every path serves outliers of values in blocks of any length", "[isa][attend]") {
  for (index_t const tokens : {4, 12, 36, 100}) {
    outlier_value<4> value{{}, tokens};
    value.outliers = 0.1f;
    check("outliers", codec_pair{token_key<8>{}, value},
          {.kv_heads = 2, .group = 3, .tokens = 130, .head_dim = 48}, 37);
  }
}

TEST_CASE("every path serves Mustafar's rows", "[isa][attend]") {
  check_shapes("half", mustafar<>{{.residual = 3}});
  check("narrow", mustafar<bf16>{{.key_share = 0.7f, .value_share = 0.0f, .residual = 0}},
        {.kv_heads = 2, .group = 9, .tokens = 70, .head_dim = 37, .value_dim = 5});
  check("wide", mustafar<float>{{.key_share = 0.99f, .residual = 0}},
        {.kv_heads = 1, .group = 2, .tokens = 40, .head_dim = 576, .value_dim = 1024});
}

TEST_CASE("every path serves TurboQuant", "[isa][attend]") {
  // Codecs alone: what decodes a channel turns a whole row back, too slow for the oracle.
  auto const run = [](auto const& codec, bool keys, index_t dim, index_t first, index_t n,
                      index_t heads) {
    INFO("keys " << keys << ", dim " << dim << ", tokens " << first << " + " << n << ", heads "
                 << heads);
    auto const z = codec.sizes(dim, run_tokens);
    data::cache const c({.kv_heads = 1, .group = heads, .tokens = run_tokens, .head_dim = dim});
    std::vector<float> rows = c.k;
    std::vector<std::byte> block(static_cast<std::size_t>(z.block_bytes));
    codec.encode(rows.data(), {.n = run_tokens, .dim = dim}, block.data());
    index_t const own = codec.parts * dim;
    std::vector<float> in(static_cast<std::size_t>(heads * std::max(own, run_tokens))), whole;
    for (std::size_t i = 0; i < in.size(); ++i)
      in[i] = std::sin(static_cast<float>(i * i % 977)) + 0.1f;
    data::on_each_path([&](isa::path) {
      std::vector<float> out(in.size(), 0.5f);
      site const at{.first = first, .n = n, .dim = dim};
      if constexpr (requires { codec.dot(block.data(), at, in.data(), heads, out.data()); })
        codec.dot(block.data(), at, in.data(), heads, out.data());
      else
        codec.accumulate(block.data(), at, in.data(), heads, out.data());
      if (whole.empty()) whole = out;
      CHECK(distance(out, whole) <= 2 * tolerance::attend);
    });
  };
  auto const at = [&](auto const& k, auto const& v) {
    for (index_t const heads : {1, 3, 4, 8, 9})
      for (index_t const first : {0, 5}) {
        for (index_t const dim : {16, 36, 80, 128}) run(k, true, dim, first, 32 - 3 * first, heads);
        for (index_t const dim : {16, 20, 40, 56, 144})
          run(v, false, dim, first, 32 - 3 * first, heads);
      }
  };
  constexpr auto inner = turbo_form::inner;
  at(turbo_key<4>{}, turbo_value<4>{});
  at(turbo_key<3>{}, turbo_value<3>{});
  at(turbo_key<2, inner>{}, turbo_value<3, inner>{});
}

TEST_CASE("every path serves what pipelines store", "[isa][attend]") {
  check("merged",
        pipeline{snapkv{{.window = 16}}, top_k{{.budget = 70, .sinks = 4}},
                 kvmerger{{.threshold = 0.5f, .mass_bias = true}}, kivi<2>{{.residual = 32}}},
        {.kv_heads = 2, .group = 4, .tokens = 150, .head_dim = 64}, 20);
  check("narrow values", int_per_token<4>{},
        {.kv_heads = 1, .group = 4, .tokens = 90, .head_dim = 96, .value_dim = 40});
}

TEST_CASE("outlier channels and great logits stay within the bound on every path",
          "[isa][attend]") {
  float const outlier = GENERATE(40.0f, 400.0f);
  data::cache c({.kv_heads = 1, .group = 4, .tokens = 90, .head_dim = 64});
  for (index_t t = 0; t < 90; ++t) c.k[static_cast<std::size_t>(t * 64 + 7)] *= outlier;
  auto const k = [&](index_t t, index_t d) { return static_cast<double>(c.key(0, 0, t, d)); };
  auto const queries = c.queries(1);
  // low(t, d): what is added to a code times its step.
  auto const at = [&](char const* name, auto const& policy, auto const& low) {
    INFO(name << ", a channel " << outlier << " times as large");
    double most = 0;
    for (index_t h = 0; h < 4; ++h)
      for (index_t t = 0; t < 90; ++t) {
        double terms = 0;
        for (index_t d = 0; d < 64; ++d)
          terms += std::abs(static_cast<double>(queries.row(0, h, 0)[d])) *
                   (std::abs(k(t, d) - low(t, d)) + std::abs(low(t, d)));
        most = std::max(most, terms / 8.0);
      }
    data::compressed const run(policy, c.view());
    REQUIRE(run.result.ok());
    data::on_each_path([&](isa::path) {
      CHECK(oracle::attend_error(run.packed, c) <=
            std::max(tolerance::attend, tolerance::attend_terms * most));
    });
  };
  auto const none = [](index_t, index_t) { return 0.0; };
  auto const of_token = [&](index_t t, index_t) {
    double low = k(t, 0);
    for (index_t d = 1; d < 64; ++d) low = std::min(low, k(t, d));
    return low;
  };
  auto const of_channel = [&](index_t t, index_t d) {
    if (t >= 64) return 0.0;  // exact
    double low = k(t / 32 * 32, d);
    for (index_t i = 1; i < 32; ++i) low = std::min(low, k(t / 32 * 32 + i, d));
    return low;
  };
  at("f16", dense<f16>{}, none);
  at("int8", int_per_token<8>{}, of_token);
  at("kivi", kivi<4>{{.residual = 32}}, of_channel);
}

TEST_CASE("weights of runs that end early are as by plain loops on every path", "[isa][attend]") {
  constexpr index_t runs = 2;
  std::mt19937 engine(5);
  std::normal_distribution<float> normal(0.0f, 3.0f);
  for (index_t heads = 1; heads <= run_heads; ++heads)
    for (index_t last = 1; last <= run_tokens; ++last) {
      INFO(heads << " heads, " << last << " tokens in the last run");
      index_t const sizes[runs] = {run_tokens, last};
      auto const seen = [&](index_t i) { return i % run_tokens < sizes[i / run_tokens / heads]; };
      std::vector<float> logits(static_cast<std::size_t>(runs * heads * run_tokens));
      for (std::size_t i = 0; i < logits.size(); ++i) {
        logits[i] = normal(engine);
        if (i % 7 == 3) logits[i] = -INFINITY;
        if (!seen(static_cast<index_t>(i))) logits[i] = i % 2 == 0 ? 90.0f : NAN;  // not looked at
      }
      std::vector<float> high(static_cast<std::size_t>(heads), -1.0f), sum = high;
      auto expected = logits, expected_high = high, expected_sum = sum;
      detail::soften_plainly(expected.data(), runs, heads, sizes, expected_high.data(),
                             expected_sum.data());
      data::on_each_path([&](isa::path path) {
        auto weights = logits;
        auto most = high, total = sum;
        if (!detail::soften(weights.data(), runs, heads, sizes, most.data(), total.data())) {
          REQUIRE(path == isa::path::portable);
          return;
        }
        REQUIRE(most == expected_high);
        for (std::size_t h = 0; h < total.size(); ++h)
          REQUIRE(std::abs(total[h] - expected_sum[h]) <= 2e-6f * expected_sum[h]);
        for (std::size_t i = 0; i < weights.size(); ++i) {
          float const p = seen(static_cast<index_t>(i)) ? expected[i] : 0.0f;
          REQUIRE(std::abs(weights[i] - p) <= 2e-6f * p);  // half a unit of x log2(e), unfused
        }
      });
    }
}

TEST_CASE("loud queries and loud channels stay within both precisions' bounds", "[isa][attend]") {
  auto const at = [&](char const* name, auto const& policy, index_t dim, index_t group,
                      index_t tokens) {
    INFO(name);
    data::cache c({.kv_heads = 1, .group = group, .tokens = tokens, .head_dim = dim});
    float const loudest = GENERATE(1.0f, 4.0f, 30.0f, 300.0f);
    bool const one_channel = GENERATE(false, true);
    INFO("queries times " << loudest << (one_channel ? ", in one channel of small keys" : ""));
    auto const wide = static_cast<std::size_t>(dim);
    for (std::size_t i = 0; i < c.q.size(); ++i)
      if (!one_channel || i % wide == 3) c.q[i] *= loudest;
    for (std::size_t i = 3; one_channel && i < c.k.size(); i += wide) c.k[i] *= 1e-3f;
    double most = 0, longest = 0;
    for (float const x : c.q) most = std::max(most, static_cast<double>(std::abs(x)));
    for (index_t t = 0; t < tokens; ++t) {
      double sum = 0;
      for (index_t d = 0; d < dim; ++d) sum += static_cast<double>(std::abs(c.key(0, 0, t, d)));
      longest = std::max(longest, sum);
    }
    double const terms = most * longest / std::sqrt(static_cast<double>(dim));
    data::compressed const run(policy, c.view());
    REQUIRE(run.result.ok());
    data::on_each_path([&](isa::path) {
      oracle::asked a(run.packed, c.queries(1));
      data::buffer room(attend_bytes(run.packed.layout(), a.request.q.heads));
      REQUIRE(attend(cpu{}, run.packed, a.request, room).ok());
      CHECK(oracle::error_of(run.packed, a.request) <=
            std::max(tolerance::attend, tolerance::attend_terms * terms));
      a.request.precision = attend_precision::fast;
      REQUIRE(attend(cpu{}, run.packed, a.request, room).ok());
      CHECK(oracle::error_of(run.packed, a.request) <=
            std::max(tolerance::attend_fast, tolerance::attend_fast_terms * terms));
    });
  };
  SECTION("int4") { at("int4", int_per_token<4>{}, 128, 4, 600); }
  SECTION("int8") { at("int8", int_per_token<8>{}, 64, 1, 70); }
  SECTION("KIVI") { at("KIVI", kivi<2>{{.residual = 32}}, 96, 5, 300); }
}
