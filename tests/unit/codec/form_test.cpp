// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// What codecs write about themselves, and what they read back.

#include "support/catch.hpp"

#include <kvslim/codec/channel_key.hpp>
#include <kvslim/codec/dense.hpp>
#include <kvslim/codec/token_key.hpp>
#include <kvslim/codec/token_value.hpp>

#include <random>
#include <set>

using namespace kvslim;

namespace {

template <class Codec>
void add(std::multiset<std::uint32_t>& ids) {
  ids.insert(Codec::traits.form.value);
}
template <class Tail, class Param>
void add_affine(std::multiset<std::uint32_t>& ids) {
  add<channel_key<2, Tail, Param>>(ids);
  add<channel_key<4, Tail, Param>>(ids);
  add<run_channel_key<4, Tail, Param>>(ids);
  add<token_key<4, Tail, Param>>(ids);
  add<token_value<4, Tail, Param>>(ids);
  add<token_value<8, Tail, Param>>(ids);
}
template <class T>
void add_all(std::multiset<std::uint32_t>& ids) {
  add<dense_key<T>>(ids);
  add<dense_value<T>>(ids);
  add_affine<T, f16>(ids);
  add_affine<T, bf16>(ids);
  add_affine<T, float>(ids);
}

template <class Codec>
void check_round_trip(Codec const& codec) {
  Codec out{};
  REQUIRE(Codec::read(codec.written(), out).ok());
  CHECK(out.written() == codec.written());
}

/// Whatever the words, read refuses or gives a codec that passes its own check.
template <class Codec>
void check_damage(Codec const& codec) {
  std::mt19937 engine(1);
  for (int round = 0; round < 2000; ++round) {
    form f = codec.written();
    f.words[engine() % 7] = static_cast<std::uint32_t>(round % 3 == 0 ? engine() : engine() % 300);
    Codec out{};
    auto const result = Codec::read(f, out);
    CHECK((result.ok() || result.code == errc::foreign));
    if (result.ok()) {
      CHECK(out.written() == f);
      static_cast<void>(out.check(64));
    } else {
      CHECK(out.written() == Codec{}.written());  // left alone
    }
  }
}

}  // namespace

TEST_CASE("every kind, width and type has a number of its own", "[form]") {
  std::multiset<std::uint32_t> ids;
  add_all<f16>(ids);
  add_all<bf16>(ids);
  add_all<float>(ids);
  add_all<e4m3>(ids);
  add_all<e5m2>(ids);
  CHECK(std::set<std::uint32_t>(ids.begin(), ids.end()).size() == ids.size());
  // Numbers in caches that were written; they never change.
  CHECK(dense_key<f16>::traits.form.value == 0x10001);
  CHECK(channel_key<4>::traits.form.value == 0x30411);
  CHECK(token_value<2, bf16, float>::traits.form.value == 0x50223);
}

TEST_CASE("options survive being written", "[form]") {
  check_round_trip(channel_key<2>{.group = 64, .residual = 192, .rounding = rounding::authors});
  check_round_trip(token_key<8>{.residual = 7});
  check_round_trip(token_value<4>{.group = 16, .residual = 128});
  check_round_trip(dense_key<e4m3>{});
  check_round_trip(dense_value<float>{});
}

TEST_CASE("forms of other codecs and damaged options are foreign", "[form]") {
  channel_key<4, f16> out{.group = 64, .residual = 64};
  CHECK((channel_key<4, f16>::read(channel_key<4, bf16>{}.written(), out).code == errc::foreign));
  CHECK((channel_key<4, f16>::read(channel_key<2, f16>{}.written(), out).code == errc::foreign));
  CHECK(channel_key<4, f16>::read(token_value<4>{}.written(), out).code == errc::foreign);
  CHECK(channel_key<4, f16>::read(form{}, out).code == errc::foreign);
  CHECK(out.group == 64);
  check_damage(channel_key<4>{.group = 64, .residual = 128});
  check_damage(token_key<4>{});
  check_damage(token_value<4>{.group = 32});
  check_damage(dense_key<f16>{});
}
