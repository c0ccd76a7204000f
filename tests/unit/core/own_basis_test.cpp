// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Codecs whose sums are in a basis of their own: attention, and a cache's whole life, beside the
// codecs in channels that hold the same.

#include "support/own_basis.hpp"

#include "support/catch.hpp"
#include "support/life.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

using namespace kvslim;
using own_basis::turn;
using own_basis::turned;

namespace {

constexpr turn every_turn[] = {turn::reversed, turn::padded, turn::pairs};

/// Both caches' answers to the same request, relative.
template <class A, class B>
double apart(A const& one, B const& other, data::cache const& c, index_t queries, index_t splits) {
  oracle::asked a(one, c.queries(queries)), b(other, c.queries(queries));
  a.request.splits = b.request.splits = splits;
  data::buffer scratch(std::max(attend_bytes(one.layout(), a.request.q.heads, queries, splits),
                                attend_bytes(other.layout(), a.request.q.heads, queries, splits)));
  REQUIRE(attend(cpu{}, one, a.request, scratch).ok());
  REQUIRE(attend(cpu{}, other, b.request, scratch).ok());
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < a.out.size(); ++i) {
    error += std::pow(double{a.out[i]} - b.out[i], 2);
    norm += std::pow(double{b.out[i]}, 2);
  }
  return std::sqrt(error / norm);
}

template <class Key, class Value>
void live(Key const& key, Value const& value, data::shape const& shape) {
  data::cache const c(shape);
  data::compressed const run(pipeline{codec_pair{key, value}}, c.view(), evidence<>{},
                             {.append_tokens = 40, .draft_tokens = 2, .evicts = true});
  INFO(run.result.message);
  REQUIRE(run.result.ok());
  CHECK(run.intact());
  for (index_t const queries : {1, 3})
    CHECK(oracle::attend_error(run.packed, c, queries) <= tolerance::attend);
  for (index_t const splits : {1, 3}) {
    oracle::asked x(run.packed, c.queries(2), true);
    x.request.splits = splits;
    x.request.window = 9;
    data::buffer scratch(attend_bytes(run.packed.layout(), x.request.q.heads, 2, splits));
    REQUIRE(attend(cpu{}, run.packed, x.request, scratch).ok());
    CHECK(scratch.intact());
    CHECK(oracle::error_of(run.packed, x.request) <= tolerance::attend);
  }
  data::life life(run.packed, c);
  for (int i = 0; i < 12; ++i) {
    REQUIRE(life.append(2).ok());
    std::vector<std::int32_t> victims;
    for (index_t r = 0; r < run.packed.extents().rows(); ++r)
      victims.push_back(
          run.packed.position(r / shape.kv_heads, r % shape.kv_heads, 1) == empty_slot ? -1 : 1);
    if (i % 3 == 0) REQUIRE(evict(cpu{}, run.packed, victims.data()).ok());
    REQUIRE(life.settle().ok());
    CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
  }
  CHECK(life.intact());
  // Decoded by rows as channel by channel.
  auto const& e = run.packed.extents();
  index_t const n = run.packed.slots(0, 0) + 8;
  std::vector<float> k(static_cast<std::size_t>(e.rows() * n * e.head_dim)),
      v(static_cast<std::size_t>(e.rows() * n * e.value_width()));
  data::buffer scratch(decode_bytes(run.packed.layout(), n));
  REQUIRE(decode(cpu{}, run.packed, dense_rows(k.data(), {e.sequences, e.kv_heads, n, e.head_dim}),
                 dense_rows(v.data(), {e.sequences, e.kv_heads, n, e.value_width()}), nullptr,
                 scratch)
              .ok());
  CHECK(k[0] == run.packed.key(0, run.packed.position(0, 0, 0) == empty_slot ? 1 : 0, 0));
  // The bytes know nothing of where they lie.
  std::vector<std::byte> bytes(serialized_bytes(run.packed));
  REQUIRE(serialize(run.packed, bytes.data(), bytes.size()).ok());
  data::buffer storage(run.plan.packed_bytes());
  packed_cache const other(run.plan, storage);
  REQUIRE(deserialize(bytes.data(), bytes.size(), other).ok());
  CHECK(oracle::attend_error(other, c) <= tolerance::attend);
  inspected found;
  REQUIRE(inspect(bytes.data(), bytes.size(), found).ok());
  CHECK(found.key == key.written());
}

}  // namespace

TEST_CASE("attention in another basis is attention", "[codec]") {
  for (turn const kind : every_turn)
    for (data::shape const& shape :
         {data::shape{.sequences = 2, .kv_heads = 2, .group = 4, .tokens = 70, .head_dim = 40},
          data::shape{.kv_heads = 1, .group = 1, .tokens = 1, .head_dim = 32},
          data::shape{.kv_heads = 2, .group = 8, .tokens = 33, .head_dim = 80, .value_dim = 24}}) {
      INFO(static_cast<int>(kind) << " " << shape.head_dim);
      live(turned<>{kind, 7}, turned<>{kind, 7}, shape);
      live(turned<>{kind, 5}, dense_value<float>{}, shape);
      live(dense_key<float>{}, turned<>{kind, 3}, shape);
      live(turned<true>{kind, 4}, turned<true>{kind, 4}, shape);
    }
}

TEST_CASE("a turned basis gives what channels give", "[codec]") {
  for (data::shape const& shape :
       {data::shape{.sequences = 2, .kv_heads = 2, .group = 4, .tokens = 2500, .head_dim = 48},
        data::shape{.kv_heads = 1, .group = 3, .tokens = 33000, .head_dim = 16}}) {
    data::cache const c(shape);
    data::compressed const plain(dense<float>{}, c.view());
    for (turn const kind : {turn::reversed, turn::padded})
      for (index_t const splits : {1, 4}) {
        data::compressed const run(codec_pair{turned<>{kind, 20}, turned<>{kind, 20}}, c.view());
        CHECK(apart(run.packed, plain.packed, c, 1, splits) <= tolerance::attend);
      }
  }
}

TEST_CASE("segments of different bases are one cache", "[codec]") {
  data::shape const shape{.kv_heads = 2, .group = 2, .tokens = 60, .head_dim = 32};
  data::cache const c(shape);
  auto const all = c.view();
  data::compressed const one(codec_pair{turned<>{turn::padded}, turned<>{turn::padded}}, all);
  data::compressed const other(dense<float>{}, all);
  oracle::asked whole(one.packed, c.queries(1)), both(one.packed, c.queries(1));
  index_t const heads = both.request.q.heads;
  data::buffer scratch(segments_bytes(heads, 1, 2, one.packed.layout(), other.packed.layout()));
  both.request.splits = 2;
  REQUIRE(attend(cpu{}, other.packed, whole.request).ok());
  REQUIRE(attend_segments(cpu{}, both.request, scratch, one.packed, other.packed).ok());
  CHECK(scratch.intact());
  // Twice the same tokens: the same average.
  for (std::size_t i = 0; i < both.out.size(); ++i)
    CHECK(std::abs(both.out[i] - whole.out[i]) <= tolerance::attend * 10);
}

TEST_CASE("what a turned cache holds is compressed again", "[codec]") {
  data::cache const c({.sequences = 2, .kv_heads = 2, .group = 2, .tokens = 90, .head_dim = 32});
  data::compressed const exact(dense<float>{}, c.view());
  data::compressed const run(codec_pair{turned<>{turn::reversed, 6}, turned<>{turn::reversed}},
                             c.view());
  auto const again = [&](auto const& from) {
    auto e = from.packed.extents();
    e.tokens = 90;
    data::room room(pipeline{knorm{}, top_k{{.budget = 40, .sinks = 4}}, kivi<4>{{.residual = 32}}},
                    e, {});
    REQUIRE(recompress(cpu{}, room.plan, from.packed, room.packed, room.scratch).ok());
    return data::bytes_of(room.packed);
  };
  CHECK(again(exact) == again(run));
}

TEST_CASE("a codec that names no coordinates is refused", "[codec]") {
  struct none : turned<> {
    [[nodiscard]] codec_sizes sizes(index_t dim, index_t n) const {
      auto z = turned<>::sizes(dim, n);
      z.own_dim = dim > 32 ? 0 : 1 << 21;
      return z;
    }
  };
  for (index_t const dim : {32, 40}) {
    packed_layout<none, dense_value<float>> layout{};
    layout.extent = {1, 1, 10, dim};
    CHECK(layout.check().code == errc::invalid_option);
    CHECK(attend_bytes(layout, 1) == 0);
  }
  packed_layout<turned<>, turned<>> layout{};
  packed_layout<dense_key<float>, dense_value<float>> plain{};
  layout.extent = plain.extent = {1, 1, 10, 1000};
  REQUIRE(layout.check().ok());
  CHECK(attend_bytes(layout, 1) - attend_bytes(plain, 1) == 4 * (1000 + 3 * 1000));
}
