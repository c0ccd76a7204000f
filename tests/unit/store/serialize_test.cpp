// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Serialized caches read back, and refuse damage.

#include "support/catch.hpp"
#include "support/life.hpp"
#include "support/oracle.hpp"
#include "support/policies.hpp"
#include "support/tolerance.hpp"

#include <cstring>

using namespace kvslim;

namespace {

data::shape const shape{.sequences = 2, .kv_heads = 2, .group = 2, .tokens = 100, .head_dim = 32};
pipeline const composed{knorm{}, top_k{{.budget = 60}}, kivi<4>{{.residual = 32}}};
plan_options const options{.append_tokens = 10, .draft_tokens = 4, .evicts = true, .biases = true};

template <class Packed>
std::vector<std::byte> serialized(Packed const& packed) {
  data::buffer bytes(serialized_bytes(packed));
  REQUIRE(serialize(packed, bytes.data(), bytes.size()).ok());
  CHECK(bytes.intact());
  return bytes.copy();
}

/// A cache that has lived: appended tokens, holes, biases.
struct lived {
  data::cache c{shape};
  std::vector<float> bias = std::vector<float>(200, -0.5f);
  data::compressed<std::remove_const_t<decltype(composed)>> run{composed, biased(), evidence<>{},
                                                                options};
  lived() {
    data::life life(run.packed, c);
    REQUIRE(life.append(4).ok());
    std::int32_t const victims[] = {3, -1, 62, 0};
    REQUIRE(evict(cpu{}, run.packed, victims).ok());
    REQUIRE(life.settle().ok());
  }
  [[nodiscard]] cache_view<plane<float const, strided>> biased() const {
    auto view = c.view();
    view.bias = bias.data();
    return view;
  }
};

}  // namespace

TEST_CASE("a serialized cache reads back and lives on", "[serialize]") {
  lived const x;
  auto const bytes = serialized(x.run.packed);
  data::buffer storage(x.run.plan.packed_bytes());
  packed_cache const other(x.run.plan, storage);
  REQUIRE(deserialize(bytes.data(), bytes.size(), other).ok());
  CHECK(storage.intact());
  CHECK(data::bytes_of(other) == data::bytes_of(x.run.packed));
  CHECK(oracle::attend_error(other, x.c) <= tolerance::attend);
  data::life life(other, x.c);
  REQUIRE(life.append(1).ok());
  CHECK(oracle::attend_error(other, x.c) <= tolerance::attend);
}

TEST_CASE("records are serialized too", "[serialize]") {
  data::cache const c(shape);
  data::compressed const run(pipeline{policies::heavy{}, top_k{{.budget = 30}}}, c.view(),
                             evidence{window_queries{c.queries(3)}}, {.evicts = true});
  auto const bytes = serialized(run.packed);
  data::buffer storage(run.plan.packed_bytes());
  packed_cache const other(run.plan, storage);
  REQUIRE(deserialize(bytes.data(), bytes.size(), other).ok());
  CHECK(std::equal(other.columns(3), other.columns(3) + 30 * 12, run.packed.columns(3)));
}

TEST_CASE("every truncation is refused", "[serialize]") {
  lived const x;
  auto const bytes = serialized(x.run.packed);
  data::buffer storage(x.run.plan.packed_bytes());
  packed_cache const other(x.run.plan, storage);
  for (std::size_t n = 0; n < bytes.size(); n += n < 700 ? 1 : 97) {
    std::vector<std::byte> const part(bytes.begin(),
                                      bytes.begin() + static_cast<std::ptrdiff_t>(n));
    auto const s = deserialize(n == 0 ? bytes.data() : part.data(), n, other);
    REQUIRE((s.code == errc::corrupt || s.code == errc::foreign));
    inspected found;
    REQUIRE_FALSE(inspect(n == 0 ? bytes.data() : part.data(), n, found).ok());
  }
  CHECK(storage.untouched());
}

TEST_CASE("every flipped bit of the first bytes, many of the rest", "[serialize]") {
  lived const x;
  auto const bytes = serialized(x.run.packed);
  data::buffer storage(x.run.plan.packed_bytes());
  packed_cache const other(x.run.plan, storage);
  std::mt19937 engine(2);
  for (std::size_t i = 0; i < 8000; ++i) {
    auto damaged = bytes;
    std::size_t const bit = i < 4608 ? i : engine() % (bytes.size() * 8);  // header and row table
    damaged[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
    auto const s = deserialize(damaged.data(), damaged.size(), other);
    REQUIRE((s.code == errc::corrupt || s.code == errc::foreign));
    REQUIRE(std::string(s.message).rfind("kvslim: ", 0) == 0);
  }
  CHECK(storage.untouched());
}

TEST_CASE("other codecs, shapes, options, tables are foreign", "[serialize]") {
  data::cache const c(shape);
  data::compressed const run(composed, c.view(), evidence<>{}, {.append_tokens = 10});
  auto const bytes = serialized(run.packed);
  auto const reads = [&](auto const& p, extents e, plan_options o = {.append_tokens = 10}) {
    auto const plan = make_plan(p, e, o);
    data::buffer s(std::max(plan.packed_bytes(), bytes.size()));
    auto const done = deserialize(bytes.data(), bytes.size(), packed_cache(plan, s));
    CHECK((done.ok() || s.untouched()));
    return done.code;
  };
  extents const e = shape.extents();
  // Neither the scorer nor the token count of the prompt matter to a reader.
  CHECK(reads(composed, e) == errc::ok);
  CHECK(reads(composed, {2, 2, 90, 32}) == errc::ok);
  CHECK(reads(pipeline{streaming_llm{}, top_k{{.budget = 9}}, kivi<4>{{.residual = 32}}}, e) ==
        errc::ok);
  CHECK(reads(kivi<4>{{.residual = 32}}, e, {.append_tokens = 3, .positions = true}) == errc::ok);
  CHECK(reads(pipeline{knorm{}, top_k{{.budget = 60}}, kivi<2>{{.residual = 32}}}, e) ==
        errc::foreign);
  CHECK(reads(pipeline{knorm{}, top_k{{.budget = 60}}, kivi<4>{{.residual = 64}}}, e) ==
        errc::foreign);
  CHECK(reads(pipeline{knorm{}, top_k{{.budget = 60}}}, e) == errc::foreign);
  CHECK(reads(composed, {2, 2, 100, 64}) == errc::foreign);
  CHECK(reads(composed, {1, 2, 100, 32}) == errc::foreign);
  CHECK(reads(composed, {2, 2, 100, 32, 64}) == errc::foreign);
  CHECK(reads(composed, e, {.append_tokens = 10, .draft_tokens = 2}) == errc::foreign);
  CHECK(reads(composed, e, {.append_tokens = 10, .biases = true}) == errc::foreign);
  CHECK(reads(composed, e, {.append_tokens = 10, .logit = {.soft_cap = 9.0f}}) == errc::foreign);
  CHECK(reads(composed, e, {.append_tokens = 10, .fingerprint = 4}) == errc::foreign);
  CHECK(reads(kivi<4>{{.residual = 32}}, e) == errc::foreign);  // no positions
}

TEST_CASE("serialize and deserialize check their memory", "[serialize]") {
  lived const x;
  auto const& packed = x.run.packed;
  auto bytes = serialized(packed);
  data::buffer out(bytes.size()), storage(x.run.plan.packed_bytes());
  CHECK(serialize(packed, out.data(), out.size() - 1).code == errc::buffer_too_small);
  CHECK(serialize(packed, nullptr, out.size()).code == errc::invalid_pointer);
  CHECK(serialize(packed, packed.storage() + 64, packed.size()).code == errc::invalid_pointer);
  packed_cache const never(x.run.plan, storage);
  CHECK(serialize(never, out.data(), out.size()).code == errc::corrupt);
  CHECK(serialized_bytes(never) == 0);
  CHECK(out.untouched());
  auto const read = [&](std::byte const* data,
                        packed_cache<channel_key<4>, token_value<4>> const& to) {
    return deserialize(data, bytes.size(), to).code;
  };
  CHECK(read(nullptr, never) == errc::invalid_pointer);
  CHECK(read(bytes.data(), packed_cache(x.run.plan, nullptr, 0)) == errc::invalid_pointer);
  CHECK(read(bytes.data(), packed_cache(x.run.plan, storage.data() + 8, storage.size())) ==
        errc::invalid_pointer);
  CHECK(read(bytes.data(), packed_cache(x.run.plan, storage.data(), bytes.size() - 1)) ==
        errc::buffer_too_small);
  CHECK(storage.untouched());
  data::buffer both(2 * storage.size());
  std::copy(bytes.begin(), bytes.end(), both.data());
  CHECK(read(both.data(), packed_cache(x.run.plan, both.data() + 64, storage.size())) ==
        errc::invalid_pointer);
}

TEST_CASE("a row table that lies, under a right checksum", "[serialize]") {
  lived const x;
  auto const bytes = serialized(x.run.packed);
  data::buffer storage(x.run.plan.packed_bytes());
  packed_cache const other(x.run.plan, storage);
  std::mt19937 engine(6);
  int accepted = 0;
  for (int i = 0; i < 4000; ++i) {
    auto damaged = bytes;
    std::size_t const at = 320 + engine() % 256;
    damaged[at] ^= static_cast<std::byte>(1 + engine() % 255);
    packed_header h;
    std::memcpy(&h, damaged.data(), sizeof h);
    h.checksum = detail::cache_checksum(damaged.data(), h);
    std::memcpy(damaged.data(), &h, sizeof h);
    if (!deserialize(damaged.data(), damaged.size(), other).ok()) continue;
    ++accepted;  // sound enough to be read, grown and coded without leaving the buffer
    oracle::asked a(other, x.c.queries(2), true);
    REQUIRE(attend(cpu{}, other, a.request).ok());
    data::life life(other, x.c);
    static_cast<void>(life.append(1));
    static_cast<void>(life.settle());
    static_cast<void>(rewind(other, 3));
    REQUIRE(storage.intact());
  }
  CHECK(accepted > 0);
  CHECK(accepted < 2000);
}
