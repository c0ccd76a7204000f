// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Two classes of MiKV in two caches store what the paper's formulas give, attention reads both as
// one, and a balanced K's outliers take less from the other channels.

#include "reference/mikv.hpp"

#include "support/catch.hpp"
#include "support/classes.hpp"
#include "support/lives.hpp"
#include "support/matrix.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

#include <kvslim/kvslim.hpp>

#include <algorithm>
#include <cmath>
#include <limits>

using namespace kvslim;

namespace {

/// What the first `window` queries and the view's keys say of every row's channels.
template <class View>
std::vector<float> balance(data::cache const& c, View const& view, index_t window) {
  auto const& e = view.extents();
  std::vector<float> out(static_cast<std::size_t>(e.rows() * e.head_dim));
  REQUIRE(ops::key_balance(cpu{}, c.queries(window), view, out.data()).ok());
  return out;
}

template <class Policy>
data::room<Policy> filled(Policy const& policy, data::cache const& c, float const* table,
                          plan_options const& options = {}) {
  data::room<Policy> room(policy, c.view().extents(), options);
  room.packed.bind({.key = table});
  auto const done = compress(cpu{}, room.plan, c.view(), evidence<>{}, room.packed, room.scratch);
  INFO(done.message);
  REQUIRE(done.ok());
  CHECK(room.intact());
  return room;
}

/// Root of the mean squared error of q . k over all rows, queries and tokens.
template <class Packed>
double score_error(Packed const& packed, data::cache const& c, index_t window) {
  double sum = 0, count = 0;
  index_t const dim = c.shape.head_dim, group = c.shape.group, heads = c.shape.kv_heads;
  rows<> const q(c.queries(window));
  for (index_t head = 0; head < heads * group; ++head)
    for (index_t w = 0; w < window; ++w)
      for (index_t t = 0; t < c.shape.tokens; ++t, ++count) {
        double error = 0;
        for (index_t d = 0; d < dim; ++d)
          error += static_cast<double>(q.at(0, head, w, d)) *
                   (packed.key(head / group, t, d) - c.key(0, head / group, t, d));
        sum += error * error;
      }
  return std::sqrt(sum / count);
}

}  // namespace

TEST_CASE("mikv keeps what a policy would evict, as the paper's formulas give", "[mikv]") {
  matrix::scene const at;
  data::layouts<float> source(at.c);
  auto const view = at.ragged(source.dense());
  auto const& e = view.extents();
  auto const table = balance(at.c, view, 64);
  auto const plan =
      make_plan(pipeline{snapkv{{.window = 8}}, top_k{{.budget = 20, .recent = 8}}, mikv<8>{}}, e,
                {.positions = true});
  data::buffer memory(plan.keep_bytes()), scratch(plan.select_bytes());
  auto keep = plan.keep(memory);
  REQUIRE(select(cpu{}, plan, view, at.evidence(), keep, scratch).ok());
  classes::tokens rest(e.rows(), e.rows() * e.tokens);
  REQUIRE(ops::rest_of(cpu{}, view, keep, rest.set).ok());
  auto const encoded = [&](auto policy, keep_set const& set) {
    data::room<decltype(policy)> room(policy, e, {.positions = true});
    room.packed.bind({.key = table.data()});
    REQUIRE(encode(cpu{}, room.plan, view, set, room.packed, room.scratch).ok());
    CHECK(room.intact());
    return room;
  };
  auto const high = encoded(mikv<8, f16, float>{}, keep);
  auto const low = encoded(mikv<3, f16, float>{}, rest.set);
  CHECK(classes::segments_error(high.packed, low.packed, at.c) <= tolerance::attend);
  index_t tokens = 0;
  auto const check = [&](auto const& packed, int bits) {
    for (index_t r = 0; r < e.rows(); ++r) {
      reference::matrix all, k, v;  // the balancer is of the whole prompt, of either class
      for (index_t t = 0; t < at.lengths[r / 2]; ++t)
        if (at.valid[static_cast<std::size_t>(r / 2 * 75 + t)] != 0)
          all.push_back(oracle::keys(at.c, r / 2, r % 2)[static_cast<std::size_t>(t)]);
      for (index_t i = 0; i < packed.slots(r / 2, r % 2); ++i, ++tokens) {
        auto const t = static_cast<std::size_t>(packed.position(r / 2, r % 2, i));
        k.push_back(oracle::keys(at.c, r / 2, r % 2)[t]);
        v.push_back(oracle::values(at.c, r / 2, r % 2)[t]);
      }
      auto const balancer = reference::mikv_balancer(oracle::window(at.c, r / 2, r % 2, 64), all);
      auto const keys = reference::mikv_keys(k, balancer, bits),
                 values = reference::mikv_values(v, bits);
      for (std::size_t i = 0; i < k.size(); ++i)
        for (std::size_t d = 0; d < 32; ++d) {
          auto const slot = static_cast<index_t>(i), channel = static_cast<index_t>(d);
          classes::check_near(packed.key(r, slot, channel), keys[i][d], k[i][d]);
          classes::check_near(packed.value(r, slot, channel), values[i][d], v[i][d]);
        }
    }
  };
  check(high.packed, 8);
  check(low.packed, 3);
  CHECK(tokens == 2 * (74 + 39));  // all that the prompt holds
}

TEST_CASE("mikv with factors of 1 is plain integers", "[mikv]") {
  data::cache const c({.sequences = 2, .kv_heads = 2, .tokens = 45, .head_dim = 80});
  std::vector<float> const ones(4 * 80, 1.0f);
  auto const room = filled(mikv<4>{{.residual = 3}}, c, ones.data());
  data::compressed const plain(int_per_token<4>{{.residual = 3}}, c.view());
  for (index_t r = 0; r < 4; ++r)
    for (index_t t = 0; t < 45; ++t)
      for (index_t d = 0; d < 80; ++d) {
        REQUIRE(room.packed.key(r, t, d) == plain.packed.key(r, t, d));
        REQUIRE(room.packed.value(r, t, d) == plain.packed.value(r, t, d));
      }
}

TEST_CASE("mikv's balancer makes outlier channels cost less", "[mikv]") {
  data::cache c({.kv_heads = 2, .group = 4, .tokens = 60, .head_dim = 64});
  for (std::size_t i = 0; i < c.k.size(); ++i)
    if (i % 64 == 7 || i % 64 == 40) c.k[i] *= 64.0f;
  for (std::size_t i = 0; i < c.q.size(); ++i)
    if (i % 64 == 7 || i % 64 == 40) c.q[i] /= 16.0f;
  std::vector<float> const ones(2 * 64, 1.0f);
  auto const table = balance(c, c.view(), 32);
  double last = std::numeric_limits<double>::infinity();
  auto const error = [&](auto policy) {
    auto const balanced = filled(policy, c, table.data()), plain = filled(policy, c, ones.data());
    double const with = score_error(balanced.packed, c, 32),
                 without = score_error(plain.packed, c, 32);
    CHECK(2 * with < without);
    CHECK(with < last);
    last = with;
  };
  error(mikv<2>{});
  error(mikv<4>{});
  error(mikv<8>{});
}

TEST_CASE("a class of mikv lives", "[mikv]") {
  for (index_t const n : {1, 20, 70})
    for (index_t const dim : {32, 80}) {
      CAPTURE(n, dim);
      data::cache const c(
          {.kv_heads = 2, .group = n == 20 ? 8 : 1, .tokens = n, .head_dim = dim, .value_dim = 48});
      auto const table = balance(c, c.view(), 20);
      auto const room = filled(mikv<4>{{.residual = n == 70 ? 9 : 0}}, c, table.data(),
                               {.append_tokens = 40, .evicts = true});
      CHECK(oracle::attend_error(room.packed, c, 2) <= tolerance::attend);
      auto packed = room.packed;
      packed.bind({});  // only filling reads the table
      data::lives_evicting(room.plan, packed, c);
    }
}

TEST_CASE("mikv takes factors of any kind, and tokens far outside", "[mikv]") {
  auto const codec = mikv<4, f16, float>{}.key_codec();
  constexpr float none = std::numeric_limits<float>::quiet_NaN(),
                  endless = std::numeric_limits<float>::infinity();
  float const given[] = {none, -2.0f, 0.0f, endless, 1e9f, 1e-9f, 3.0f, -endless};
  float const held[] = {1.0f, 1.0f, 1.0f, 100.0f, 100.0f, 0.01f, 3.0f, 1.0f};
  float state[8] = {}, own[8] = {}, work[16];
  float const ones[] = {1, 1, 1, 1, 1, 1, 1, 1};
  site at{.dim = 8, .table = given};
  codec.fit([](index_t, index_t, float*) {}, 0, at, reinterpret_cast<std::byte*>(state), work);
  at.state = reinterpret_cast<std::byte const*>(state);
  codec.prepare(ones, at, own);
  for (int d = 0; d < 8; ++d) CHECK(own[d] == held[d]);

  data::cache const c({.kv_heads = 1, .tokens = 32, .head_dim = 32});
  std::vector<float> const small(32, 1e-9f);
  auto const room = filled(mikv<2>{}, c, small.data(), {.append_tokens = 8});
  std::vector<float> const far(32, 60000.0f);  // 6e6 once divided: cut at 65504
  data::buffer scratch(
      std::max(append_bytes(room.plan.layout()), settle_bytes(room.plan.layout())));
  auto const row = dense_rows(far.data(), {1, 1, 1, 32});
  REQUIRE(append(cpu{}, room.packed, row, row, scratch).ok());
  REQUIRE(settle(cpu{}, room.packed, scratch).ok());
  CHECK(room.packed.raw_row(0).key_coded == 33);
  CHECK(std::abs(room.packed.key(0, 32, 3) - 655.04f) <= 655 * 2 * tolerance::f16_storage);
  CHECK(std::abs(room.packed.value(0, 32, 3) - 60000.0f) <= 60000 * tolerance::f16_storage);
}

TEST_CASE("mikv says what it needs", "[mikv]") {
  auto const check = [](auto const& policy, index_t dim) {
    return make_plan(policy, {1, 1, 10, dim}).check().code;
  };
  CHECK(check(mikv<2>{}, 64) == errc::ok);
  CHECK(check(mikv<2>{}, 66) == errc::invalid_shape);
  CHECK(check(mikv<2>{{.residual = -1}}, 64) == errc::invalid_option);
  data::cache c({.kv_heads = 1, .tokens = 10, .head_dim = 32});
  data::compressed const unbound(mikv<4>{}, c.view());
  CHECK(unbound.result.code == errc::invalid_pointer);
  CHECK(unbound.storage.untouched());
  auto const key = mikv<4>{{.residual = 5}}.key_codec();
  auto back = mikv<4>{}.key_codec();
  REQUIRE(decltype(back)::read(key.written(), back).ok());
  CHECK(back.written() == key.written());
  auto fewer = mikv<2>{}.key_codec();
  CHECK(decltype(fewer)::read(key.written(), fewer).code == errc::foreign);
  form bad = key.written();
  bad.words[1] = 1u << 30;
  CHECK(decltype(back)::read(bad, back).code == errc::foreign);
  std::vector<float> const ones(32, 1.0f);
  c.k[9] = 66000.0f;
  data::room<mikv<4, float>> room({}, c.view().extents(), {});
  room.packed.bind({.key = ones.data()});
  CHECK(compress(cpu{}, room.plan, c.view(), evidence<>{}, room.packed, room.scratch).code ==
        errc::non_finite);
}

TEST_CASE("key_balance is the root of the peaks' ratio, over what the view holds", "[mikv]") {
  for (index_t const dim : {1, 5, 16, 80})
    for (index_t const group : {1, 8}) {
      CAPTURE(dim, group);
      data::cache c({.sequences = 2, .kv_heads = 2, .group = group, .tokens = 30, .head_dim = dim});
      auto const sizes = static_cast<std::size_t>(dim);
      for (index_t t = 0; t < 30; ++t) c.k[static_cast<std::size_t>(t * dim)] = 0.0f;
      std::vector<std::uint8_t> valid(60, 1);
      std::int32_t const lengths[] = {30, 12};
      valid[4] = valid[35] = 0;
      valid[6] = 2;
      for (std::size_t d = 0; d < sizes; ++d) c.k[4 * sizes + d] = 1e6f;          // padding
      for (std::size_t d = 0; d < sizes; ++d) c.k[(60 + 13) * sizes + d] = 1e6f;  // beyond the end
      auto view = c.view();
      view.valid = valid.data();
      view.lengths = lengths;
      auto const got = balance(c, view, 9);
      for (index_t r = 0; r < 4; ++r) {
        reference::matrix keys;
        for (index_t t = 0; t < lengths[r / 2]; ++t)
          if (valid[static_cast<std::size_t>(r / 2 * 30 + t)] != 0)
            keys.push_back(oracle::keys(c, r / 2, r % 2)[static_cast<std::size_t>(t)]);
        auto const balancer = reference::mikv_balancer(oracle::window(c, r / 2, r % 2, 9), keys);
        for (std::size_t d = 0; d < sizes; ++d) {
          double const factor = 1 / balancer[d];
          CHECK(std::abs(got[static_cast<std::size_t>(r) * sizes + d] - factor) <=
                tolerance::elementwise * factor);
        }
      }
      CHECK(got[0] == 1.0f);  // K's first channel is 0
    }
  data::cache const c({.kv_heads = 2, .group = 2, .tokens = 10, .head_dim = 8});
  auto const view = c.view();
  std::vector<float> out(16, 7.0f);
  auto const ask = [&](auto const& q, auto const& cells, float* to) {
    return ops::key_balance(cpu{}, q, cells, to).code;
  };
  auto const shaped = [&](rows_shape const& shape) { return dense_rows(c.q.data(), shape); };
  CHECK(ask(shaped({1, 3, 2, 8}), view, out.data()) == errc::invalid_shape);
  CHECK(ask(shaped({1, 4, 0, 8}), view, out.data()) == errc::invalid_shape);
  CHECK(ask(shaped({2, 4, 2, 8}), view, out.data()) == errc::invalid_shape);
  CHECK(ask(shaped({1, 4, 2, 4}), view, out.data()) == errc::invalid_shape);
  CHECK(ask(shaped({1, 4, 2, 8}), view, nullptr) == errc::invalid_pointer);
  CHECK(ask(dense_rows(static_cast<float*>(nullptr), {1, 4, 2, 8}), view, out.data()) ==
        errc::invalid_pointer);
  auto bad = view;
  std::int32_t const longer = 11;
  bad.lengths = &longer;
  CHECK(ask(shaped({1, 4, 2, 8}), bad, out.data()) == errc::invalid_shape);
  CHECK(out == std::vector<float>(16, 7.0f));
}
