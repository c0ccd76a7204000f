// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// ThinK keeps the channels that the authors' code keeps, the newest tokens whole, and attention
// reads what is stored.

#include "reference/think.hpp"

#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/life.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

#include <kvslim/kvslim.hpp>

#include <cmath>
#include <limits>
#include <set>
#include <string>

using namespace kvslim;

namespace {

/// What the queries say of every row's channels.
template <class Queries>
std::vector<float> energy(Queries const& q, index_t kv_heads) {
  std::vector<float> out(static_cast<std::size_t>(q.sequences * kv_heads * q.head_dim));
  REQUIRE(ops::query_energy(cpu{}, q, kv_heads, out.data()).ok());
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

/// Channels of row r that the oldest token does not read as 0.
template <class Packed>
std::vector<std::size_t> stored_channels(Packed const& packed, index_t r) {
  std::vector<std::size_t> out;
  for (index_t d = 0; d < packed.extents().head_dim; ++d)
    if (packed.key(r, 0, d) != 0.0f) out.push_back(static_cast<std::size_t>(d));
  return out;
}

/// Appended, taken out, coded and read back; attention stays what the stored cache decodes to.
template <class Policy>
void live(Policy const& policy, data::shape const& shape, bool evicts) {
  CAPTURE(shape.head_dim, shape.group, shape.tokens, evicts);
  data::cache const c(shape);
  auto const table = energy(c.queries(32), shape.kv_heads);
  auto const room =
      filled(policy, c, table.data(), {.append_tokens = 60, .draft_tokens = 2, .evicts = evicts});
  CHECK(oracle::attend_error(room.packed, c, 2) <= tolerance::attend);
  std::vector<std::vector<std::size_t>> before;
  for (index_t r = 0; r < shape.rows(); ++r) before.push_back(stored_channels(room.packed, r));
  auto packed = room.packed;
  packed.bind({});  // only filling reads the table
  data::life life(packed, c);
  for (int i = 0; i < 40; ++i) {
    REQUIRE(life.append(i % 2 + 1).ok());
    std::vector<std::int32_t> victims(static_cast<std::size_t>(shape.rows()), i + 1);
    if (evicts && i + 1 < shape.tokens) REQUIRE(evict(cpu{}, packed, victims.data()).ok());
    REQUIRE(life.settle().ok());
  }
  CHECK(life.intact());
  CHECK(oracle::attend_error(packed, c) <= tolerance::attend);
  std::vector<std::byte> bytes(serialized_bytes(packed));
  REQUIRE(serialize(packed, bytes.data(), bytes.size()).ok());
  data::buffer storage(room.plan.packed_bytes());
  packed_cache const other(room.plan, storage);
  REQUIRE(deserialize(bytes.data(), bytes.size(), other).ok());
  CHECK(oracle::attend_error(other, c) <= tolerance::attend);
}

}  // namespace

TEST_CASE("think keeps the channels that the authors' code keeps", "[golden][think]") {
  golden const g("think");
  index_t const heads = 4, kv_heads = 2, tokens = 60, dim = 40, window = 32, recent = 20;
  data::cache c({.kv_heads = kv_heads, .tokens = tokens, .head_dim = dim});
  c.k = g.floats("k");
  auto const q = g.floats("q");
  auto const all = dense_rows(q.data(), {1, heads, window, dim});
  auto first = all;  // one query head of every group
  first.heads = kv_heads;
  first.layout.kv_head *= heads / kv_heads;
  for (int const percent : {30, 40, 75})
    for (bool const grouped : {false, true}) {
      CAPTURE(percent, grouped);
      auto const table = energy(grouped ? all : first, kv_heads);
      think const policy{dense<float>{},
                         {.share = static_cast<float>(percent) / 100.0f, .recent = recent}};
      auto const room = filled(policy, c, table.data());
      auto const& kept = g[(grouped ? "kept_grouped_" : "kept_") + std::to_string(percent)];
      auto const n = static_cast<index_t>(kept.size()) / kv_heads;
      for (index_t r = 0; r < kv_heads; ++r) {
        std::set<index_t> stays;
        for (index_t j = 0; j < n; ++j)
          stays.insert(static_cast<index_t>(kept[static_cast<std::size_t>(r * n + j)]));
        for (index_t t = 0; t < tokens; ++t)
          for (index_t d = 0; d < dim; ++d)
            REQUIRE(room.packed.key(r, t, d) ==
                    (t >= tokens - recent || stays.count(d) != 0 ? c.key(0, r, t, d) : 0.0f));
      }
      if (percent != 40 || grouped) continue;
      auto const old = g.floats("old_40");
      for (index_t r = 0; r < kv_heads; ++r)
        for (index_t t = 0; t < tokens - recent; ++t)
          for (index_t j = 0; j < n; ++j)
            REQUIRE(old[static_cast<std::size_t>((r * (tokens - recent) + t) * n + j)] ==
                    room.packed.key(
                        r, t, static_cast<index_t>(kept[static_cast<std::size_t>(r * n + j)])));
    }
}

TEST_CASE("think keeps the channels of the paper's rule", "[think]") {
  for (index_t const dim : {1, 5, 64, 80})
    for (index_t const group : {1, 8})
      for (float const share : {0.0f, 0.4f, 0.7f, 0.99f}) {
        CAPTURE(dim, group, share);
        data::cache const c(
            {.sequences = 2, .kv_heads = 2, .group = group, .tokens = 50, .head_dim = dim});
        auto const table = energy(c.queries(20), 2);
        auto const room =
            filled(think{dense<float>{}, {.share = share, .recent = 7}}, c, table.data());
        auto const kept = room.packed.layout().key.kept(dim);
        CHECK(kept == dim - static_cast<index_t>(std::floor(static_cast<float>(dim) * share)));
        for (index_t r = 0; r < 4; ++r)
          CHECK(stored_channels(room.packed, r) ==
                reference::think(oracle::window(c, r / 2, r % 2, 20), oracle::keys(c, r / 2, r % 2),
                                 static_cast<std::size_t>(kept)));
      }
}

TEST_CASE("think lives", "[think]") {
  for (data::shape const& shape :
       {data::shape{.sequences = 2, .kv_heads = 2, .group = 4, .tokens = 70, .head_dim = 80},
        data::shape{.kv_heads = 1, .group = 1, .tokens = 1, .head_dim = 64},
        data::shape{.kv_heads = 2, .group = 8, .tokens = 40, .head_dim = 96, .value_dim = 48}}) {
    live(think{}, shape, true);
    live(think{int_per_token<8>{}, {.recent = 5, .multiple = 4}}, shape, true);
    live(think{kivi<2>{{.group = 32, .residual = 32, .value_group = 16}},
               {.share = 0.5f, .recent = 0, .multiple = 4}},
         shape, false);
    live(think{kivi<4>{{.group = 32, .residual = 64, .value_group = 16}},
               {.recent = 9, .multiple = 8}},
         shape, false);
  }
}

TEST_CASE("think with nothing left out changes nothing that attention sees", "[think]") {
  data::cache const c({.kv_heads = 2, .group = 3, .tokens = 300, .head_dim = 112});
  auto const table = energy(c.queries(32), 2);
  auto const all = filled(think{dense<float>{}, {.share = 0.0f}}, c, table.data());
  data::compressed const plain(dense<float>{}, c.view());
  oracle::asked a(plain.packed, c.queries(1)), b(all.packed, c.queries(1));
  REQUIRE(attend(cpu{}, plain.packed, a.request).ok());
  REQUIRE(attend(cpu{}, all.packed, b.request).ok());
  for (std::size_t i = 0; i < a.out.size(); ++i)
    CHECK(std::abs(a.out[i] - b.out[i]) <= tolerance::attend);
}

TEST_CASE("think counts its bytes", "[think]") {
  auto const plan = make_plan(think{dense<f16>{}, {.share = 0.4f, .recent = 0}}, {1, 1, 160, 128});
  auto const parts = plan.layout().parts(160, 0);
  auto const z = plan.layout().key_sizes(160);
  CHECK(z.own_dim == 77);
  CHECK(z.state_bytes == 156);
  CHECK(z.block_bytes == 16 * 77 * 2);
  CHECK(parts.value_blocks - parts.key_blocks >= 160 * 77 * 2);
  CHECK(make_plan(think{kivi<2>{{.residual = 32}}, {.recent = 0, .multiple = 4}}, {1, 1, 160, 128})
            .layout()
            .key_sizes(160)
            .own_dim == 80);
}

TEST_CASE("think chooses in any order of memory, with pins, padding and ties", "[think]") {
  data::cache c({.kv_heads = 2, .group = 2, .tokens = 60, .head_dim = 16});
  std::vector<float> table(32, 1.0f);
  for (float& x : c.k) x = 1.0f;
  auto const tied = filled(think{dense<float>{}, {.share = 0.5f, .recent = 0}}, c, table.data());
  CHECK(stored_channels(tied.packed, 1) == std::vector<std::size_t>{0, 1, 2, 3, 4, 5, 6, 7});
  table[16 + 3] = std::numeric_limits<float>::quiet_NaN();
  table[16 + 2] = -1.0f;
  auto const odd = filled(think{dense<float>{}, {.share = 0.5f, .recent = 0}}, c, table.data());
  CHECK(stored_channels(odd.packed, 1) == std::vector<std::size_t>{0, 1, 4, 5, 6, 7, 8, 9});
  // A padded token's key has no say, wherever it lies.
  data::cache const plain({.kv_heads = 1, .group = 2, .tokens = 40, .head_dim = 32}, 3);
  auto const said = energy(plain.queries(8), 1);
  auto const whole = filled(think{dense<float>{}, {.recent = 4}}, plain, said.data());
  data::cache more({.kv_heads = 1, .group = 2, .tokens = 41, .head_dim = 32}, 3);
  std::vector<std::int32_t> positions(41);
  std::vector<std::uint8_t> valid(41, 1);
  for (index_t i = 0; i < 41; ++i) {  // backwards, cell 17 holds nothing
    index_t const t = i < 17 ? 39 - i : 40 - i;
    positions[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(t);
    for (index_t d = 0; d < 32; ++d) {
      auto const at = static_cast<std::size_t>(i * 32 + d);
      more.k[at] = i == 17 ? 1e6f * static_cast<float>(d) : plain.key(0, 0, t, d);
      more.v[at] = i == 17 ? 0.0f : plain.value(0, 0, t, d);
    }
  }
  valid[17] = 0;
  valid[20] = 2;
  auto view = more.view();
  view.positions = positions.data();
  view.valid = valid.data();
  think const policy{dense<float>{}, {.recent = 4}};
  data::room room(policy, view.extents(), {.positions = true});
  room.packed.bind({.key = said.data()});
  REQUIRE(compress(cpu{}, room.plan, view, evidence<>{}, room.packed, room.scratch).ok());
  for (index_t t = 0; t < 40; ++t)
    for (index_t d = 0; d < 32; ++d) REQUIRE(room.packed.key(0, t, d) == whole.packed.key(0, t, d));
}

TEST_CASE("think refuses what it cannot store", "[think]") {
  auto const check = [](think_options const& o, index_t dim = 64) {
    return make_plan(think{dense<f16>{}, o}, {1, 1, 10, dim}).check().code;
  };
  CHECK(check({}) == errc::ok);
  CHECK(check({.share = 1.0f}) == errc::invalid_option);
  CHECK(check({.share = -0.1f}) == errc::invalid_option);
  CHECK(check({.share = std::numeric_limits<float>::quiet_NaN()}) == errc::invalid_option);
  CHECK(check({.recent = -1}) == errc::invalid_option);
  CHECK(check({.multiple = 0}) == errc::invalid_option);
  CHECK(check({.multiple = 257}) == errc::invalid_option);
  CHECK(check({}, 65537) == errc::invalid_shape);
  CHECK(make_plan(think{int_per_token<4>{}}, {1, 1, 10, 64}).check().code == errc::invalid_shape);
  data::cache const c({.kv_heads = 2, .tokens = 40, .head_dim = 32});
  data::compressed const unbound(think{}, c.view());
  CHECK(unbound.result.code == errc::invalid_pointer);
  CHECK(unbound.storage.untouched());
  auto const k =
      think{int_per_token<4>{{.residual = 6}}, {.share = 0.25f, .multiple = 4}}.key_codec();
  std::remove_const_t<decltype(k)> back;
  REQUIRE(decltype(back)::read(k.written(), back).ok());
  CHECK(back.written() == k.written());
  CHECK(back.kept(64) == 48);
  chosen_channels<token_key<8>> other;
  CHECK(decltype(other)::read(k.written(), other).code == errc::foreign);
  auto form = k.written();
  form.words[5] = 0x40000000u;  // a share of 2
  CHECK(decltype(back)::read(form, back).code == errc::foreign);
}

TEST_CASE("query_energy is the mean square, and says what it needs", "[think]") {
  float const q[] = {1, 2, 3, 4, 5, 6, 7, 8};  // two heads of two queries of two channels
  float out[2] = {};
  REQUIRE(ops::query_energy(cpu{}, dense_rows(q, {1, 2, 2, 2}), 1, out).ok());
  CHECK(out[0] == 21.0f);
  CHECK(out[1] == 30.0f);
  out[0] = 7.0f;
  CHECK(ops::query_energy(cpu{}, dense_rows(q, {1, 2, 2, 2}), 3, out).code == errc::invalid_shape);
  CHECK(ops::query_energy(cpu{}, dense_rows(q, {1, 2, 0, 2}), 1, out).code == errc::invalid_shape);
  CHECK(ops::query_energy(cpu{}, dense_rows(static_cast<float*>(nullptr), {1, 2, 2, 2}), 1, out)
            .code == errc::invalid_pointer);
  CHECK(ops::query_energy(cpu{}, dense_rows(q, {1, 2, 2, 2}), 1, nullptr).code ==
        errc::invalid_pointer);
  CHECK(out[0] == 7.0f);
}
