// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Mustafar keeps what the authors' code keeps of every token, in a fixed number of bytes.

#include "reference/mustafar.hpp"

#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/life.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

#include <kvslim/kvslim.hpp>

#include <cmath>
#include <limits>
#include <random>
#include <string>

using namespace kvslim;

namespace {

/// What one row becomes.
template <class T>
std::vector<float> stored(std::vector<float> const& row, float share) {
  auto const dim = static_cast<index_t>(row.size());
  sparse_rows<T> const codec{share};
  REQUIRE(codec.check(dim).ok());
  auto const bytes = static_cast<std::size_t>(codec.sizes(dim, 1).block_bytes);
  std::vector<std::byte> block(bytes + 4, std::byte{0x5a});
  codec.encode(row.data(), {.n = 1, .dim = dim}, block.data());
  CHECK(block[bytes] == std::byte{0x5a});
  std::vector<float> out;
  for (index_t d = 0; d < dim; ++d)
    out.push_back(codec.decode(block.data(), {.n = 1, .dim = dim}, d));
  return out;
}

/// Appended, taken out, coded and read back; attention stays what the stored cache decodes to.
template <class Policy>
void live(Policy const& policy, data::shape const& shape) {
  CAPTURE(shape.head_dim, shape.group, shape.tokens);
  data::cache const c(shape);
  data::compressed const run(policy, c.view(), evidence<>{},
                             {.append_tokens = 40, .draft_tokens = 2, .evicts = true});
  INFO(run.result.message);
  REQUIRE(run.result.ok());
  CHECK(run.intact());
  CHECK(oracle::attend_error(run.packed, c, 2) <= tolerance::attend);
  data::life life(run.packed, c);
  for (int i = 0; i < 20; ++i) {
    REQUIRE(life.append(i % 2 + 1).ok());
    std::vector<std::int32_t> victims(static_cast<std::size_t>(shape.rows()), i);
    if (i < shape.tokens) REQUIRE(evict(cpu{}, run.packed, victims.data()).ok());
    REQUIRE(life.settle().ok());
  }
  CHECK(life.intact());
  CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
  std::vector<std::byte> bytes(serialized_bytes(run.packed));
  REQUIRE(serialize(run.packed, bytes.data(), bytes.size()).ok());
  data::buffer storage(run.plan.packed_bytes());
  packed_cache const other(run.plan, storage);
  REQUIRE(deserialize(bytes.data(), bytes.size(), other).ok());
  CHECK(oracle::attend_error(other, c) <= tolerance::attend);
}

}  // namespace

TEST_CASE("mustafar keeps what the authors' code keeps", "[golden][mustafar]") {
  golden const g("mustafar");
  auto const k = g.floats("k");
  for (int const percent : {0, 30, 50, 70, 99}) {
    CAPTURE(percent);
    auto const pruned = g.floats("pruned_" + std::to_string(percent));
    for (std::size_t t = 0; t < k.size() / 80; ++t) {
      auto const at = static_cast<std::ptrdiff_t>(t * 80);
      std::vector<float> const row(k.begin() + at, k.begin() + at + 80);
      REQUIRE(stored<float>(row, static_cast<float>(percent) / 100.0f) ==
              std::vector<float>(pruned.begin() + at, pruned.begin() + at + 80));
    }
  }
}

TEST_CASE("mustafar keeps the largest, the earlier of equal ones", "[mustafar]") {
  std::vector<float> const tied{2, -1, 1, -3, 0, 3, -1, 1};
  CHECK(stored<f16>(tied, 0.5f) == std::vector<float>{2, -1, 1, -3, 0, 3, 0, 0});
  CHECK(stored<f16>(tied, 0.99f) == std::vector<float>{0, 0, 0, -3, 0, 3, 0, 0});
  CHECK(stored<f16>(tied, 0.0f) == tied);
  CHECK(stored<f16>(std::vector<float>(40, 0.0f), 0.5f) == std::vector<float>(40, 0.0f));
  CHECK(stored<bf16>({-7.0f}, 0.9f) == std::vector<float>{-7.0f});
  CHECK(stored<float>({1e-40f, -1e38f, 3e-45f, 1.0f}, 0.75f) ==
        std::vector<float>{0.0f, -1e38f, 0.0f, 1.0f});
  for (index_t const dim : {1, 31, 32, 33, 80, 128, 576, 1024})
    for (float const share : {0.0f, 0.3f, 0.5f, 0.7f, 0.999f}) {
      CAPTURE(dim, share);
      data::cache const c({.kv_heads = 1, .tokens = 5, .head_dim = dim});
      sparse_rows<f16> const codec{share};
      auto const kept = codec.kept(dim);
      for (index_t t = 0; t < 5; ++t) {
        std::vector<double> row;
        for (index_t d = 0; d < dim; ++d) row.push_back(c.key(0, 0, t, d));
        auto const expected = reference::mustafar(row, static_cast<std::size_t>(dim - kept));
        auto const got = stored<f16>({row.begin(), row.end()}, share);
        for (std::size_t d = 0; d < row.size(); ++d) REQUIRE(got[d] == expected[d]);
      }
    }
}

TEST_CASE("mustafar lives", "[mustafar]") {
  for (data::shape const& shape :
       {data::shape{.sequences = 2, .kv_heads = 2, .group = 4, .tokens = 70, .head_dim = 80},
        data::shape{.kv_heads = 1, .group = 1, .tokens = 1, .head_dim = 5},
        data::shape{.kv_heads = 2, .group = 9, .tokens = 40, .head_dim = 96, .value_dim = 33}}) {
    live(mustafar<>{}, shape);
    live(mustafar<bf16>{{.key_share = 0.7f, .value_share = 0.0f, .residual = 0}}, shape);
  }
}

TEST_CASE("mustafar behind a rotation and behind chosen channels", "[mustafar]") {
  live(rotated{mustafar<float>{{.residual = 4}}},
       {.kv_heads = 2, .group = 2, .tokens = 50, .head_dim = 64});
  auto const plan = make_plan(think{mustafar<>{}}, {1, 1, 10, 128});
  CHECK(plan.check().ok());
  CHECK(plan.layout().key_sizes(10).block_bytes == 4 * 3 + 2 * 40);  // 77 channels, 40 of them
}

TEST_CASE("mustafar reads its blocks and nothing behind them, damaged ones too", "[mustafar]") {
  isa::path const before = isa::current();
  for (auto const path : isa::every_path)
    for (index_t const dim : {1, 5, 37, 80, 128, 1024}) {
      isa::use(path);
      CAPTURE(isa::name_of(isa::current()), dim);
      index_t const n = 7;
      data::cache const c({.kv_heads = 1, .tokens = n, .head_dim = dim});
      sparse_rows<f16> const codec{0.6f};
      site const at{.n = n, .dim = dim};
      std::vector<float> row(c.k.begin(), c.k.end()), q(row.begin(), row.begin() + dim);
      std::vector<std::byte> bytes(static_cast<std::size_t>(n * codec.sizes(dim, n).block_bytes));
      codec.encode(row.data(), at, bytes.data());
      std::vector<float> scores(run_tokens), p(run_tokens, 0.25f),
          out(static_cast<std::size_t>(dim));
      codec.dot(bytes.data(), at, q.data(), 1, scores.data());
      codec.accumulate(bytes.data(), at, p.data(), 1, out.data());
      std::vector<double> expected(out.size()), length(out.size());
      for (index_t t = 0; t < n; ++t) {
        std::byte const* const block = bytes.data() + t * codec.sizes(dim, n).block_bytes;
        double exact = 0, norm = 0;
        for (std::size_t d = 0; d < out.size(); ++d) {
          double const x = codec.decode(block, {.n = 1, .dim = dim}, static_cast<index_t>(d));
          exact += x * q[d];
          norm += std::abs(x * q[d]);
          expected[d] += x / 4;
          length[d] += std::abs(x / 4);
        }
        CHECK(std::abs(scores[static_cast<std::size_t>(t)] - exact) <=
              tolerance::accumulated * norm);
      }
      for (std::size_t d = 0; d < out.size(); ++d)
        REQUIRE(std::abs(out[d] - expected[d]) <= tolerance::accumulated * length[d]);
      std::fill(bytes.begin(), bytes.end(), std::byte{0xff});
      codec.dot(bytes.data(), at, q.data(), 1, scores.data());
      codec.accumulate(bytes.data(), at, p.data(), 1, out.data());
    }
  isa::use(before);
}

TEST_CASE("mustafar counts its bytes", "[mustafar]") {
  auto const z = [](float share, index_t dim) {
    return sparse_rows<f16>{share}.sizes(dim, 1).block_bytes;
  };
  CHECK(z(0.5f, 128) == 16 + 132);  // 65 values
  CHECK(z(0.7f, 128) == 16 + 80);
  CHECK(z(0.0f, 80) == 12 + 160);
  data::cache const c({.kv_heads = 2, .tokens = 256, .head_dim = 128});
  data::compressed const half(mustafar<>{{.residual = 0}}, c.view());
  data::compressed const plain(dense<f16>{}, c.view());
  REQUIRE(half.result.ok());
  CHECK(plain.packed.bytes() - half.packed.bytes() == 2 * 256 * 2 * (256 - 148));
}

TEST_CASE("mustafar refuses what it cannot store", "[mustafar]") {
  auto const check = [](mustafar<>::options const& o, index_t dim = 64) {
    return make_plan(mustafar<>{o}, {1, 1, 10, dim}).check().code;
  };
  float const nan = std::numeric_limits<float>::quiet_NaN();
  CHECK(check({}) == errc::ok);
  CHECK(check({.key_share = 1.0f}) == errc::invalid_option);
  CHECK(check({.value_share = -0.1f}) == errc::invalid_option);
  CHECK(check({.key_share = nan}) == errc::invalid_option);
  CHECK(check({.residual = -1}) == errc::invalid_option);
  CHECK(check({}, 1025) == errc::invalid_shape);
  data::cache c({.kv_heads = 1, .tokens = 8, .head_dim = 64});
  c.v[9] = nan;
  data::compressed const run(mustafar<>{}, c.view());
  CHECK(run.result.code == errc::non_finite);
  CHECK(run.storage.untouched());
  sparse_rows<f16> const one{0.7f, 32};
  sparse_rows<f16> back;
  REQUIRE(sparse_rows<f16>::read(one.written(), back).ok());
  CHECK(back.written() == one.written());
  sparse_rows<bf16> other;
  CHECK(sparse_rows<bf16>::read(one.written(), other).code == errc::foreign);
  auto damaged = one.written();
  damaged.words[0] = 0x3f800000u;  // a share of 1
  CHECK(sparse_rows<f16>::read(damaged, back).code == errc::foreign);
}

TEST_CASE("mustafar stores the same bytes on every path", "[mustafar][isa]") {
  std::mt19937 engine(9);
  std::normal_distribution<float> normal;
  isa::path const before = isa::current();
  auto const compare = [&](auto number, index_t dim, float share, std::vector<float> const& rows) {
    sparse_rows<decltype(number)> const codec{share};
    auto const n = static_cast<index_t>(rows.size()) / dim;
    auto const bytes = static_cast<std::size_t>(n * codec.sizes(dim, 1).block_bytes);
    std::vector<std::byte> expected;
    for (isa::path const path : isa::every_path) {  // the first is plain loops
      if (isa::use(path) != path) continue;
      std::vector<std::byte> mine(bytes + 4, std::byte{0x5a});
      codec.encode(const_cast<float*>(rows.data()), {.n = n, .dim = dim}, mine.data());
      if (expected.empty()) expected = mine;
      CAPTURE(dim, share, isa::name_of(path));
      CHECK(mine == expected);
    }
  };
  for (index_t const dim : {4, 16, 40, 80, 128, 256, 1024})
    for (float const share : {0.0f, 0.3f, 0.5f, 0.7f, 0.99f}) {
      std::vector<float> rows;
      for (int t = 0; t < 6; ++t)
        for (index_t d = 0; d < dim; ++d) {
          float const x = normal(engine);
          rows.push_back(t == 0   ? x
                         : t == 1 ? 0.0f
                         : t == 2 ? std::round(x)  // ties
                         : t == 3 ? (d % 2 == 0 ? 0.5f : -0.5f)
                         : t == 4 ? std::ldexp(x, static_cast<int>(engine() % 200) - 150)
                                  : (d % 5 == 0 ? -65504.0f : x));
        }
      compare(f16{}, dim, share, rows);
      compare(bf16{}, dim, share, rows);
      compare(0.0f, dim, share, rows);
    }
  isa::use(before);
}
