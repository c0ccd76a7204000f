// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Sequences leave a running batch and others join it.

#include "support/catch.hpp"
#include "support/data.hpp"
#include "support/tolerance.hpp"

#include <kvslim/run/join.hpp>

#include <cstring>

using namespace kvslim;

namespace {

template <class Packed>
std::vector<float> answers(Packed const& packed, index_t first, index_t sequences) {
  auto const& e = packed.extents();
  std::vector<float> const q(static_cast<std::size_t>(sequences * e.kv_heads * e.head_dim), 0.3f);
  std::vector<float> out(static_cast<std::size_t>(sequences * e.kv_heads * e.value_width()));
  std::vector<float> lse(static_cast<std::size_t>(sequences * e.kv_heads));
  attend_request<> const a{
      .q = dense_rows<host_space, float const>(q.data(), {sequences, e.kv_heads, 1, e.head_dim}),
      .out = dense_rows(out.data(), {sequences, e.kv_heads, 1, e.value_width()}),
      .lse = lse.data(),
      .first_sequence = first};
  REQUIRE(attend(cpu{}, packed, a).ok());
  out.insert(out.end(), lse.begin(), lse.end());
  return out;
}

/// Equal but for the order of sums: rings begin at other places.
bool close(std::vector<float> const& a, std::vector<float> const& b) {
  double error = 0.0, norm = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    error += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
    norm += std::pow(static_cast<double>(b[i]), 2);
  }
  return a.size() == b.size() && std::sqrt(error) <= tolerance::attend * std::sqrt(norm);
}

/// A token for every row, then what is due.
template <class Packed>
void grow(Packed const& packed, int tokens, float start) {
  auto const& e = packed.extents();
  std::vector<std::byte> scratch(append_bytes(packed.layout())),
      work(settle_bytes(packed.layout()));
  for (int i = 0; i < tokens; ++i) {
    std::vector<float> x(static_cast<std::size_t>(e.rows() * e.head_dim));
    for (std::size_t j = 0; j < x.size(); ++j)
      x[j] = start + static_cast<float>((j % static_cast<std::size_t>(e.head_dim)) % 7) -
             0.25f * static_cast<float>(i % 5);
    auto const row = dense_rows(x.data(), {e.sequences, e.kv_heads, 1, e.head_dim});
    REQUIRE(append(cpu{}, packed, row, row, scratch).ok());
    REQUIRE(settle(cpu{}, packed, work).ok());
  }
}

template <class Policy>
void leaves_and_joins(Policy const& policy) {
  data::cache const batch({3, 2, 1, 70, 32}), prompt({1, 2, 1, 45, 32}, 9);
  plan_options const o{.append_tokens = 80, .draft_tokens = 2, .positions = true, .biases = true};
  data::compressed const running(policy, batch.view(), {}, o);
  data::compressed const alone(policy, prompt.view(), {}, o);
  REQUIRE((running.result.ok() && alone.result.ok()));
  grow(running.packed, 37, 0.5f);
  grow(alone.packed, 3, 1.0f);
  auto const others = answers(running.packed, 0, 1), last = answers(running.packed, 2, 1);

  REQUIRE(leave(running.packed, {.first_sequence = 1, .sequences = 1}).ok());
  CHECK(running.packed.tokens(1, 0) == 0);
  CHECK(running.packed.next_position(1, 1) == 0);
  CHECK(answers(running.packed, 0, 1) == others);

  std::vector<std::byte> scratch(append_bytes(running.plan.layout()));
  REQUIRE(join(cpu{}, alone.packed, 0, running.packed, 1, scratch).ok());
  CHECK(running.storage.intact());
  CHECK(close(answers(running.packed, 1, 1), answers(alone.packed, 0, 1)));
  for (index_t h = 0; h < 2; ++h)
    for (index_t slot = 0; slot < alone.packed.slots(0, h); ++slot) {
      REQUIRE(running.packed.position(1, h, slot) == alone.packed.position(0, h, slot));
      for (index_t d = 0; d < 32; ++d) {
        REQUIRE(running.packed.key(2 + h, slot, d) == alone.packed.key(h, slot, d));
        REQUIRE(running.packed.value(2 + h, slot, d) == alone.packed.value(h, slot, d));
      }
    }
  CHECK(answers(running.packed, 0, 1) == others);
  CHECK(answers(running.packed, 2, 1) == last);
  CHECK(running.packed.next_position(1) == 48);

  // It lives on as it would have by itself.
  grow(running.packed, 35, 0.75f);
  grow(alone.packed, 35, 0.75f);
  CHECK(close(answers(running.packed, 1, 1), answers(alone.packed, 0, 1)));
  std::vector<std::byte> file(serialized_bytes(running.packed));
  REQUIRE(serialize(running.packed, file.data(), file.size()).ok());
  data::buffer again(running.packed.bytes());
  packed_cache const back(running.plan, again);
  CHECK(deserialize(file.data(), file.size(), back).ok());
}

}  // namespace

TEST_CASE("a sequence joins a running batch with its codes", "[join]") {
  leaves_and_joins(pipeline{dense<f16>{}});
  leaves_and_joins(pipeline{kivi<4>{{.residual = 32}}});
  leaves_and_joins(pipeline{knorm{}, top_k{{.budget = 40}}, int_per_token<8>{{.residual = 6}}});
}

TEST_CASE("a longer prompt joins where every row was given room", "[join]") {
  data::cache const batch({3, 2, 1, 20, 32}), prompt({1, 2, 1, 150, 32}, 9);
  auto const joins = [&](auto const& policy) {
    plan_options const o{.append_tokens = 10, .row_slots = 170, .positions = true};
    data::compressed const running(policy, batch.view(), {}, o);
    data::compressed const alone(policy, prompt.view(), {},
                                 {.append_tokens = 1, .positions = true});
    REQUIRE((running.result.ok() && alone.result.ok()));
    CHECK(running.packed.bytes() <= running.plan.packed_bytes());
    grow(running.packed, 15, 0.5f);
    auto const last = answers(running.packed, 2, 1);
    std::vector<std::byte> scratch(append_bytes(running.plan.layout()));
    REQUIRE(leave(running.packed, {.first_sequence = 1, .sequences = 1}).ok());
    REQUIRE(join(cpu{}, alone.packed, 0, running.packed, 1, scratch).ok());
    CHECK(close(answers(running.packed, 1, 1), answers(alone.packed, 0, 1)));
    grow(running.packed, 20, 0.5f);
    CHECK(running.packed.tokens(1, 0) == 170);
    CHECK(answers(running.packed, 2, 1) != last);
  };
  joins(dense<f16>{});
  joins(kivi<4>{{.residual = 32}});
  joins(int_per_token<8>{{.residual = 6}});
}

TEST_CASE("leave and join refuse, and write nothing", "[join][bad_input]") {
  data::cache const batch({2, 2, 1, 30, 32}), longer({1, 2, 1, 60, 32});
  data::compressed const running(int_per_token<8>{}, batch.view(), {}, {.append_tokens = 4});
  data::compressed const large(int_per_token<8>{}, longer.view(), {}, {.append_tokens = 4});
  data::compressed const other(int_per_token<8>{}, batch.view(), {},
                               {.append_tokens = 4, .positions = true});
  data::room<pipeline<int_per_token<8>>> const never(pipeline{int_per_token<8>{}},
                                                     batch.shape.extents(), {.append_tokens = 4});
  std::vector<std::byte> scratch(append_bytes(running.plan.layout()));
  auto const before = running.storage.copy();
  auto const run = [&](auto const& from, index_t s, index_t to, workspace w) {
    auto const code = join(cpu{}, from.packed, s, running.packed, to, w).code;
    CHECK(running.storage.copy() == before);
    return code;
  };
  CHECK(run(large, 0, 1, scratch) == errc::capacity_exceeded);
  CHECK(run(large, 1, 1, scratch) == errc::invalid_shape);
  CHECK(run(large, 0, -1, scratch) == errc::invalid_shape);
  CHECK(run(large, 0, 2, scratch) == errc::invalid_shape);
  CHECK(run(other, 0, 1, scratch) == errc::foreign);
  CHECK(run(running, 0, 1, scratch) == errc::invalid_pointer);
  CHECK(run(never, 0, 1, scratch) == errc::corrupt);
  data::compressed const fits(int_per_token<8>{}, batch.view(), {}, {.append_tokens = 4});
  CHECK(run(fits, 0, 1, {scratch.data(), scratch.size() - 1}) == errc::buffer_too_small);
  CHECK(leave(never.packed).code == errc::corrupt);
  CHECK(leave(running.packed, {.first_sequence = 2, .sequences = 1}).code == errc::invalid_shape);
  CHECK(running.storage.copy() == before);
}
