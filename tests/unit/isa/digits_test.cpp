// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Queries that kernels keep as digits while a row is read, in channels and in a basis of its own.

#include "support/catch.hpp"
#include "support/oracle.hpp"
#include "support/paths.hpp"
#include "support/tolerance.hpp"

#include <algorithm>
#include <cstring>

using namespace kvslim;

namespace {

/// Numbers that differ, some much larger.
std::vector<float> numbers(index_t n, index_t salt) {
  std::vector<float> x;
  for (index_t i = 0; i < n; ++i) {
    float const y = std::sin(static_cast<float>((i + salt) * (i + 3 * salt) % 977)) + 0.1f;
    x.push_back(i % 29 == 3 ? 6.0f * y : y);
  }
  return x;
}

/// Logits of three blocks, asked for twice, then of parts of the heads and of other queries: bit
/// for bit the same with kept digits as without.
template <class Codec>
void check_kept(Codec const& codec, index_t dim, index_t heads, attend_precision precision) {
  CAPTURE(dim, heads, precision == attend_precision::fast);
  constexpr index_t blocks = 3;
  auto const z = codec.sizes(dim, blocks * run_tokens);
  std::vector<float> state(static_cast<std::size_t>(z.state_bytes / 4 + 1), 0.0f);
  state[0] = 9.0f;  // the greatest magnitude; means are zero
  site at{.n = run_tokens,
          .dim = dim,
          .state = static_cast<std::byte const*>(static_cast<void const*>(state.data())),
          .precision = precision,
          .apart = heads * run_tokens};
  data::buffer block(static_cast<std::size_t>(blocks * z.block_bytes));
  for (index_t b = 0; b < blocks; ++b) {
    auto rows = numbers(run_tokens * dim, b);
    codec.encode(rows.data(), at, block.data() + b * z.block_bytes);
  }
  auto const queries = numbers(heads * dim, 5), others = numbers(heads * dim, 8);
  index_t const kept = detail::digit_rows_of(heads, dim);
  std::vector<detail::digit_rows> room(static_cast<std::size_t>(detail::digit_room)),
      memory(static_cast<std::size_t>(kept + 1));
  std::memset(static_cast<void*>(&memory.back()), 0x5a, sizeof(detail::digit_rows));
  auto const untouched = memory.back();
  for (auto& x : memory) x.from = nullptr;
  memory.back() = untouched;
  auto const logits = [&](site s, float const* q, index_t first, index_t n) {
    std::vector<float> scores(static_cast<std::size_t>(n * run_tokens), 0.5f);
    for (index_t b = 0; b < blocks; ++b)
      codec.dot(block.data() + b * z.block_bytes, s, q + first * dim, n, scores.data());
    return scores;
  };
  at.room = room.data();
  site keeping = at;
  keeping.kept = memory.data();
  keeping.lasting = queries.data();
  keeping.lasting_heads = heads;
  keeping.lasting_dim = dim;
  for (int round = 0; round < 2; ++round) {
    for (index_t first = 0; first < heads; ++first)
      for (index_t n = 1; first + n <= heads; ++n)
        if (first == 0 || n == 1 || first + n == heads)
          CHECK(logits(keeping, queries.data(), first, n) == logits(at, queries.data(), first, n));
    CHECK(logits(keeping, others.data(), 0, heads) == logits(at, others.data(), 0, heads));
  }
  CHECK(std::memcmp(&memory.back(), &untouched, sizeof untouched) == 0);
}

}  // namespace

TEST_CASE("digits that are kept are those that would be cut anew", "[isa]") {
  data::on_each_path([](isa::path) {
    for (auto const precision : {attend_precision::tight, attend_precision::fast})
      for (index_t const dim : {64, 96, 128, 160, 256})
        for (index_t heads = 1; heads <= run_heads; ++heads) {
          check_kept(token_key<8>{}, dim, heads, precision);
          check_kept(token_key<4>{}, dim, heads, precision);
          if (dim % 128 != 32) check_kept(token_key<2>{}, dim, heads, precision);
          if (dim % 64 == 0) check_kept(centred_key<6>{}, dim, heads, precision);
        }
  });
}

TEST_CASE("every path serves codes behind a rotation", "[isa][attend]") {
  auto const at = [](char const* name, auto const& policy, index_t dim, index_t heads) {
    INFO(name << ", dim " << dim << ", heads " << heads);
    data::cache const c({.kv_heads = 2, .group = heads, .tokens = 197, .head_dim = dim});
    data::compressed const run(policy, c.view());
    REQUIRE(run.result.ok());
    auto const decoded = oracle::rows_of(run.packed);
    data::on_each_path([&](isa::path) {
      for (index_t const queries : {1, 2}) {
        oracle::asked a(run.packed, c.queries(queries));
        data::buffer room(attend_bytes(run.packed.layout(), a.request.q.heads, queries));
        for (bool const roomy : {true, false}) {
          auto const scratch = roomy ? workspace(room) : workspace{};
          a.request.precision = attend_precision::tight;
          REQUIRE(attend(cpu{}, run.packed, a.request, scratch).ok());
          CHECK(oracle::error_of(run.packed, a.request, decoded) <= tolerance::attend);
          a.request.precision = attend_precision::fast;
          REQUIRE(attend(cpu{}, run.packed, a.request, scratch).ok());
          CHECK(oracle::error_of(run.packed, a.request, decoded) <= tolerance::attend_fast);
        }
        CHECK(room.intact());
      }
    });
  };
  for (index_t const dim : {64, 96, 128})
    for (index_t heads = 1; heads <= run_heads; ++heads)
      at("int4", rotated{int_per_token<4>{}, {.seed = 3}}, dim, heads);
  at("int8", rotated{int_per_token<8>{{.residual = 21}}}, 128, 5);
  at("int2", rotated{int_per_token<2>{}}, 256, 7);
  at("kivi", rotated{kivi<4>{{.residual = 32}}}, 128, 4);
}
