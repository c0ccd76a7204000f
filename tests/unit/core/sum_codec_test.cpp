// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// A codec made of two, after GEAR: a sum inside one block. Each part adds to the scores; nothing
// else in the library changes. A sketch of a method, to show that the seam carries it.

#include "support/catch.hpp"
#include "support/life.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

using namespace kvslim;

namespace {

template <class A, class B>
struct sum_key {
  using tail_type = typename A::tail_type;
  static constexpr codec_traits traits{.form = form_id{0xf001}, .whole_blocks = true};
  A a;
  B b;

  [[nodiscard]] constexpr status check(index_t dim) const {
    auto const s = a.check(dim);
    return s.ok() ? b.check(dim) : s;
  }
  [[nodiscard]] constexpr codec_sizes sizes(index_t dim, index_t n) const {
    auto z = a.sizes(dim, n);
    z.block_bytes += b.sizes(dim, n).block_bytes;
    return z;
  }
  [[nodiscard]] constexpr float limit() const { return a.limit(); }
  [[nodiscard]] constexpr form written() const { return {traits.form.value}; }
  [[nodiscard]] static constexpr status read(form const& f, sum_key& out) {
    if (f.id != traits.form.value) return detail::fail(errc::foreign, "kvslim: another codec");
    out = {};
    return {};
  }

  void encode(float const* rows, site const& at, std::byte* block) const {
    a.encode(rows, at, block);
    std::vector<float> rest(
        static_cast<std::size_t>(at.n * at.dim));  // a method would use fixed scratch
    for (index_t i = 0; i < at.n; ++i)
      for (index_t d = 0; d < at.dim; ++d) {
        index_t const x = i * at.dim + d;
        rest[static_cast<std::size_t>(x)] =
            rows[x] - a.decode(block, {.first = at.first + i, .dim = at.dim}, d);
      }
    b.encode(rest.data(), at, block + bytes_of_a(at.dim));
  }
  [[nodiscard]] float decode(std::byte const* block, site const& at, index_t d) const {
    return a.decode(block, at, d) + b.decode(block + bytes_of_a(at.dim), at, d);
  }
  void dot(std::byte const* block, site const& at, float const* q, index_t heads,
           float* scores) const {
    a.dot(block, at, q, heads, scores);
    b.dot(block + bytes_of_a(at.dim), at, q, heads, scores);
  }

 private:
  [[nodiscard]] constexpr index_t bytes_of_a(index_t dim) const {
    return a.sizes(dim, 0).block_bytes;
  }
};

constexpr sum_key<channel_key<2>, channel_key<2>> twice{{32, 32}, {32, 32}};
static_assert(key_codec<std::remove_const_t<decltype(twice)>>);

}  // namespace

TEST_CASE("a sum of two codes is closer than one and attends as stored", "[codec]") {
  data::cache const c({.kv_heads = 1, .tokens = 96, .head_dim = 32});
  data::compressed const one(kivi<2>{{.residual = 32}}, c.view());
  data::compressed const two(codec_pair{twice, token_value<4>{32, 32}}, c.view(), evidence<>{},
                             {.append_tokens = 40});
  REQUIRE(two.result.ok());
  CHECK(two.intact());
  double error_one = 0, error_two = 0;
  for (index_t t = 0; t < 96; ++t)
    for (index_t d = 0; d < 32; ++d) {
      error_one += std::pow(one.packed.key(0, t, d) - c.key(0, 0, t, d), 2);
      error_two += std::pow(two.packed.key(0, t, d) - c.key(0, 0, t, d), 2);
    }
  CHECK(error_two * 4 < error_one);
  CHECK(oracle::attend_error(two.packed, c) <= tolerance::attend);
  data::life life(two.packed, c);
  for (int i = 0; i < 40; ++i) {
    REQUIRE(life.append().ok());
    REQUIRE(life.settle().ok());
  }
  CHECK(two.packed.raw_row(0).key_coded == 128);
  CHECK(oracle::attend_error(two.packed, c) <= tolerance::attend);
}
