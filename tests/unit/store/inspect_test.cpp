// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// What a buffer holds, before any type is named.

#include "support/catch.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

#include <cstring>

using namespace kvslim;

namespace {

data::shape const shape{
    .sequences = 2, .kv_heads = 3, .group = 1, .tokens = 80, .head_dim = 32, .value_dim = 64};

template <class T, class Buffer>
void put(Buffer const& buffer, std::size_t at, T value) {
  std::memcpy(buffer.data() + at, &value, sizeof value);
}

}  // namespace

TEST_CASE("inspect says what a buffer holds", "[inspect]") {
  data::cache const c(shape);
  data::compressed const run(pipeline{knorm{}, top_k{{.budget = 50}}, kivi<4>{{.residual = 32}}},
                             c.view(), evidence<>{}, {.append_tokens = 9, .fingerprint = 77});
  inspected x;
  REQUIRE(inspect(run.storage.data(), run.storage.size(), x).ok());
  CHECK(x.key == run.plan.layout().key.written());
  CHECK(x.value == run.plan.layout().value.written());
  CHECK(x.extent == extents{2, 3, 50, 32, 64});
  CHECK(x.bytes == run.packed.bytes());
  CHECK(x.fingerprint == 77);
}

TEST_CASE("any_cache visits the form that a buffer names", "[inspect]") {
  data::cache const c(shape);
  using k4 = stored_as<channel_key<4>, token_value<4>>;
  using f16s = stored_as<dense_key<f16>, dense_value<f16>>;
  using mixed = stored_as<token_key<8>, token_value<4>>;
  auto const visited = [&](auto const& run) {
    any_cache<k4, f16s, mixed> const any(run.storage.data(), run.storage.size());
    double error = 1e9;
    auto const s = any.visit([&](auto const& packed) {
      error = oracle::attend_error(packed, c);
      return detail::fail(errc::ok, "visited");
    });
    if (s.ok()) {
      CHECK(std::string(s.message) == "visited");
      CHECK(error <= tolerance::attend);
    }
    return s.code;
  };
  CHECK(visited(data::compressed(kivi<4>{{.residual = 64}}, c.view())) == errc::ok);
  CHECK(visited(data::compressed(pipeline{knorm{}, top_k{{.budget = 9}}}, c.view())) == errc::ok);
  CHECK(visited(data::compressed(codec_pair{token_key<8>{}, token_value<4>{}}, c.view())) ==
        errc::ok);
  CHECK(visited(data::compressed(kivi<2>{}, c.view())) == errc::foreign);
  CHECK(visited(data::compressed(dense<bf16>{}, c.view())) == errc::foreign);
  data::compressed const run(dense<f16>{}, c.view());
  auto const told = [](auto const&) { return detail::fail(errc::unsupported, "kvslim: no"); };
  CHECK(any_cache<f16s>(run.storage.data(), run.storage.size()).visit(told).code ==
        errc::unsupported);
  CHECK(any_cache<f16s>(nullptr, 0).visit(told).code == errc::invalid_pointer);
  CHECK(any_cache<f16s>(run.storage.data(), 100).visit(told).code == errc::invalid_pointer);
  CHECK(any_cache<f16s>(run.storage.data() + 8, run.storage.size()).visit(told).code ==
        errc::invalid_pointer);
  CHECK(any_cache<f16s>(run.storage.data(), run.packed.bytes() - 1).visit(told).code ==
        errc::corrupt);
  put(run.storage, offsetof(packed_header, head_dim), std::int64_t{5000});
  CHECK(any_cache<f16s>(run.storage.data(), run.storage.size()).visit(told).code == errc::corrupt);
}

TEST_CASE("inspect trusts nothing", "[inspect]") {
  data::cache const c(shape);
  data::compressed const run(kivi<4>{{.residual = 32}}, c.view());
  auto const original = run.storage.copy();
  auto const outcome = [&](auto const& change) {
    std::copy(original.begin(), original.end(), run.storage.data());
    change();
    inspected x;
    return inspect(run.storage.data(), run.storage.size(), x).code;
  };
  auto const header = [&](std::size_t at, auto value) {
    return outcome([&] { put(run.storage, at, value); });
  };
  auto const row = [&](std::size_t at, std::int32_t value) {
    return header(320 + 4 * 64 + at, value);
  };
  using h = packed_header;
  using r = packed_row;
  CHECK(header(offsetof(h, magic), 7u) == errc::foreign);
  CHECK(header(offsetof(h, version), 1u) == errc::foreign);
  CHECK(header(offsetof(h, header_bytes), 128u) == errc::foreign);
  CHECK(header(offsetof(h, row_bytes), 32u) == errc::foreign);
  CHECK(header(offsetof(h, sequences), std::int64_t{-2}) == errc::corrupt);
  CHECK(header(offsetof(h, kv_heads), std::int64_t{1} << 40) == errc::corrupt);
  CHECK(header(offsetof(h, sequences), std::int64_t{1} << 20) == errc::corrupt);
  CHECK(header(offsetof(h, used_bytes), std::int64_t{1} << 40) == errc::corrupt);
  CHECK(header(offsetof(h, used_bytes), std::int64_t{-1}) == errc::corrupt);
  CHECK(row(offsetof(r, slots), -1) == errc::corrupt);
  CHECK(row(offsetof(r, slots), 1000) == errc::corrupt);
  CHECK(row(offsetof(r, holes), 81) == errc::corrupt);
  CHECK(outcome([] {}) == errc::ok);
  inspected x;
  CHECK(inspect(nullptr, 1000, x).code == errc::invalid_pointer);
  CHECK(inspect(run.storage.data(), 319, x).code == errc::corrupt);
}
