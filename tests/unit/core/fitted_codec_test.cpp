// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Codecs that fit a basis to the prompt or read a table that the cache binds, and rebuild keys
// before RoPE from positions. Checked against rows of low rank. Sketches of methods, to show that
// the seams carry them.

#include "support/catch.hpp"
#include "support/life.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

#include <cstring>
#include <numeric>

using namespace kvslim;

namespace {

/// Latents of `rank` floats per token. The basis [member, rank, dim] is fitted to the prompt for a
/// group of layers and heads (after xKV), or a table that the cache binds, one per kv head (a
/// trained or offline projector). Keys are projected before RoPE and rotated again while read.
template <bool Key, bool Fitted>
struct projected {
  using tail_type = float;
  static constexpr codec_traits traits{.form = form_id{0xf003 + 2 * Key + Fitted},
                                       .positions = Key,
                                       .grouped = Fitted,
                                       .fitted = Fitted};
  index_t rank = 4;
  index_t residual = 0;
  rope rotation = {};

  [[nodiscard]] constexpr row_group rows() const { return Fitted ? row_group{2, 2} : row_group{}; }
  [[nodiscard]] constexpr row_group group() const requires Fitted { return rows(); }
  [[nodiscard]] constexpr status check(index_t dim) const {
    return rotation.fits(dim)
               ? status{}
               : detail::fail(errc::invalid_option, "kvslim: latent needs rope.dims that fit");
  }
  [[nodiscard]] constexpr codec_sizes sizes(index_t dim, index_t) const {
    return {.block_bytes = rank * 4,
            .keep_exact = residual,
            .state_bytes = Fitted ? rows().size() * rank * dim * 4 : 0,
            .fit_floats = Fitted ? (1 + rank) * rows().size() * dim : 0};
  }
  [[nodiscard]] constexpr float limit() const { return largest_finite<float>(); }
  [[nodiscard]] constexpr form written() const {
    return {traits.form.value,
            {static_cast<std::uint32_t>(rank), static_cast<std::uint32_t>(residual)}};
  }
  [[nodiscard]] static constexpr status read(form const& f, projected& out) {
    if (f.id != traits.form.value) return detail::fail(errc::foreign, "kvslim: another codec");
    out = {index_t{f.words[0]}, index_t{f.words[1]}};
    return {};
  }
  /// Leading right subspace of [tokens, members * dim] by orthogonal iteration, streaming over
  /// tokens.
  template <class Read>
  void fit(Read const& read, index_t tokens, site const& at, std::byte* state,
           float* scratch) const requires Fitted {
    index_t const dim = at.dim, width = rows().size() * dim;
    float *const x = scratch, *const sum = x + width;  // [width], [rank, width]
    for (index_t i = 0; i < rank * width; ++i)
      sum[i] = std::sin(static_cast<float>(1 + i * i % 97));
    auto const orthonormal = [&] {
      for (index_t i = 0; i < rank; ++i) {
        for (index_t j = 0; j < i; ++j) {
          float const along = ops::dot(sum + i * width, sum + j * width, width);
          for (index_t c = 0; c < width; ++c) sum[i * width + c] -= along * sum[j * width + c];
        }
        float const length = ops::norm(sum + i * width, width);
        for (index_t c = 0; c < width; ++c) sum[i * width + c] /= length;
      }
    };
    auto* const out = reinterpret_cast<float*>(state);  // [member][rank][dim]
    for (int step = 0; step < 6; ++step) {
      orthonormal();
      for (index_t m = 0; m < rows().size(); ++m)
        for (index_t i = 0; i < rank; ++i)
          std::memcpy(out + (m * rank + i) * dim, sum + i * width + m * dim,
                      static_cast<std::size_t>(dim) * 4);
      if (step == 5) return;
      for (index_t i = 0; i < rank * width; ++i) sum[i] = 0.0f;
      for (index_t t = 0; t < tokens; ++t) {
        for (index_t m = 0; m < rows().size(); ++m) {
          read(m, t, x + m * dim);
          if (Key) ops::rotate(rotation, dim, -at.positions[t], x + m * dim);
        }
        for (index_t i = 0; i < rank; ++i) {
          float along = 0.0f;
          for (index_t m = 0; m < rows().size(); ++m)
            along += ops::dot(x + m * dim, out + (m * rank + i) * dim, dim);
          for (index_t c = 0; c < width; ++c) sum[i * width + c] += along * x[c];
        }
      }
    }
  }
  [[nodiscard]] float const* basis_of(site const& at, index_t member) const {
    if constexpr (Fitted) return reinterpret_cast<float const*>(at.state) + member * rank * at.dim;
    return static_cast<float const*>(at.table) + at.row % 2 * rank * at.dim;  // two kv heads
  }
  void encode(float const* values, site const& at, std::byte* block) const {
    auto* const out = reinterpret_cast<float*>(block);
    std::vector<float> x(static_cast<std::size_t>(at.dim));  // a method would use a fixed array
    for (index_t m = 0; m < rows().size(); ++m) {
      std::memcpy(x.data(), values + m * at.dim, x.size() * 4);
      if (Key) ops::rotate(rotation, at.dim, -at.positions[0], x.data());
      for (index_t i = 0; i < rank; ++i)
        out[i] =
            (m == 0 ? 0.0f : out[i]) + ops::dot(x.data(), basis_of(at, m) + i * at.dim, at.dim);
    }
  }
  void rebuild(std::byte const* block, site const& at, index_t i, float* x) const {
    auto const* const z = reinterpret_cast<float const*>(block) + i * rank;
    for (index_t d = 0; d < at.dim; ++d) {
      x[d] = 0.0f;
      for (index_t j = 0; j < rank; ++j) x[d] += z[j] * basis_of(at, at.member)[j * at.dim + d];
    }
    if (Key) ops::rotate(rotation, at.dim, at.positions[i], x);
  }
  [[nodiscard]] float decode(std::byte const* block, site const& at, index_t d) const {
    std::vector<float> x(static_cast<std::size_t>(at.dim));
    rebuild(block, at, 0, x.data());
    return x[static_cast<std::size_t>(d)];
  }
  void dot(std::byte const* block, site const& at, float const* q, index_t heads,
           float* scores) const {
    std::vector<float> x(static_cast<std::size_t>(at.dim));
    for (index_t i = 0; i < at.n; ++i) {
      rebuild(block, at, i, x.data());
      for (index_t h = 0; h < heads; ++h)
        scores[h * run_tokens + i] += ops::dot(q + h * at.dim, x.data(), at.dim);
    }
  }
  /// The projection is absorbed: weights meet latents, and the basis is applied once.
  void accumulate(std::byte const* block, site const& at, float const* p, index_t heads,
                  float* out) const {
    auto const* const z = reinterpret_cast<float const*>(block);
    for (index_t h = 0; h < heads; ++h)
      for (index_t j = 0; j < rank; ++j) {
        float along = 0.0f;
        for (index_t i = 0; i < at.n; ++i) along += p[h * run_tokens + i] * z[i * rank + j];
        for (index_t d = 0; d < at.dim; ++d)
          out[h * at.dim + d] += along * basis_of(at, at.member)[j * at.dim + d];
      }
  }
};

using fitted_key = projected<true, true>;
using fitted_value = projected<false, true>;
static_assert(key_codec<fitted_key> && value_codec<fitted_value> &&
              key_codec<projected<true, false>>);
constexpr codec_pair over_heads{fitted_key{}, fitted_value{}};

/// Rotates a [dim] row in double by hand.
void turn(float* x, index_t dim, index_t position) {
  for (index_t i = 0; i < dim / 2; ++i) {
    double const angle =
        static_cast<double>(position) *
        std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
    double const a = x[i], b = x[i + dim / 2];
    x[i] = static_cast<float>(a * std::cos(angle) - b * std::sin(angle));
    x[i + dim / 2] = static_cast<float>(b * std::cos(angle) + a * std::sin(angle));
  }
}

/// Makes K and V of rank 4 over all rows at once; K is rotated to `positions`.
void make_low_rank(data::cache& c, std::vector<std::int32_t> const& positions) {
  auto const& s = c.shape;
  index_t const rows = s.sequences * s.kv_heads;
  std::mt19937 engine(3);
  std::normal_distribution<float> normal;
  for (auto* x : {&c.k, &c.v}) {
    std::vector<float> z(static_cast<std::size_t>(s.tokens * 4)),
        w(static_cast<std::size_t>(4 * rows * s.head_dim));
    for (float& y : z) y = normal(engine);
    for (float& y : w) y = normal(engine);
    for (index_t r = 0; r < rows; ++r)
      for (index_t t = 0; t < s.tokens; ++t) {
        float* const row = x->data() + (r * s.tokens + t) * s.head_dim;
        for (index_t d = 0; d < s.head_dim; ++d) {
          row[d] = 0.0f;
          for (index_t j = 0; j < 4; ++j)
            row[d] += z[static_cast<std::size_t>(t * 4 + j)] *
                      w[static_cast<std::size_t>((j * rows + r) * s.head_dim + d)];
        }
        if (x == &c.k) turn(row, s.head_dim, positions[static_cast<std::size_t>(t)]);
      }
  }
}

double worst_row(data::cache const& c, std::vector<float> const& source, auto const& decoded,
                 index_t r, index_t from, index_t t) {
  double error = 0, norm = 0;
  for (index_t d = 0; d < c.shape.head_dim; ++d) {
    double const x =
        source[static_cast<std::size_t>((r * c.shape.tokens + from) * c.shape.head_dim + d)];
    error += std::pow(x - decoded(r, t, d), 2);
    norm += x * x;
  }
  return std::sqrt(error / norm);
}

}  // namespace

TEST_CASE(
    "a basis over two layers and their heads is fitted, stored once, and rebuilds keys "
    "before RoPE",
    "[codec][fitted]") {
  data::cache c({.sequences = 2, .kv_heads = 2, .tokens = 40, .head_dim = 16});
  std::vector<std::int32_t> positions(40);
  for (std::size_t t = 0; t < 40; ++t) positions[t] = static_cast<std::int32_t>(3 * t + 5);
  make_low_rank(c, positions);
  auto view = c.view();
  std::vector<std::int32_t> both(positions);
  both.insert(both.end(), positions.begin(), positions.end());
  view.positions = both.data();
  data::compressed const run(over_heads, view);
  REQUIRE(run.result.ok());
  for (index_t r = 0; r < 4; ++r)
    for (index_t t = 0; t < 40; ++t) {
      CHECK(worst_row(
                c, c.k, [&](index_t i, index_t j, index_t d) { return run.packed.key(i, j, d); }, r,
                t, t) < 1e-3);
      CHECK(worst_row(
                c, c.v, [&](index_t i, index_t j, index_t d) { return run.packed.value(i, j, d); },
                r, t, t) < 1e-3);
    }
  CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
  // Four floats a token and half for four rows; the basis once; 4 bytes of position in each row.
  auto const first = run.plan.layout().parts(40, 0), other = run.plan.layout().parts(40, 3);
  CHECK(first.key_blocks - first.key_state == 4 * 4 * 16 * 4);
  CHECK(first.key_tail - first.key_blocks == 40 * 4 * 4);
  CHECK(other.bytes == detail::round_up(40 * 4, 64));
}

TEST_CASE("rows that share blocks must keep the same tokens, and groups must divide",
          "[codec][grouped]") {
  data::cache const c({.sequences = 2, .kv_heads = 2, .tokens = 40, .head_dim = 16}),
      odd({.sequences = 3, .kv_heads = 2, .tokens = 40, .head_dim = 16});
  std::vector<float> scores(160);
  for (std::size_t i = 0; i < scores.size(); ++i) scores[i] = static_cast<float>((i * 37) % 11);
  data::compressed const ragged(pipeline{given_scores{}, top_k{{.budget = 10}}, over_heads},
                                c.view(), evidence{token_scores<>{scores.data()}});
  CHECK(ragged.result.code == errc::unsupported);
  CHECK(ragged.storage.untouched());
  for (std::size_t i = 40; i < scores.size(); ++i) scores[i] = scores[i % 40];
  data::compressed const same(pipeline{given_scores{}, top_k{{.budget = 10}}, over_heads}, c.view(),
                              evidence{token_scores<>{scores.data()}});
  CHECK(same.result.ok());
  CHECK(data::compressed(over_heads, odd.view()).result.code == errc::invalid_shape);
}

TEST_CASE("a low-rank key is stored before RoPE and rotated to where its token stands",
          "[codec][positions]") {
  data::cache c({.kv_heads = 2, .tokens = 60, .head_dim = 16});
  std::vector<std::int32_t> positions(60);
  std::iota(positions.begin(), positions.end(), 0);
  make_low_rank(c, positions);
  std::vector<float> basis(
      2 * 4 * 16);  // Gram-Schmidt over four unrotated keys of each head spans them all
  for (index_t h = 0; h < 2; ++h)
    for (index_t i = 0; i < 4; ++i) {
      float* const b = basis.data() + (h * 4 + i) * 16;
      for (index_t d = 0; d < 16; ++d) b[d] = c.key(0, h, i, d);
      turn(b, 16, -i);
      for (index_t j = 0; j < i; ++j) {
        float const along = ops::dot(b, basis.data() + (h * 4 + j) * 16, 16);
        for (index_t d = 0; d < 16; ++d)
          b[d] -= along * basis[static_cast<std::size_t>((h * 4 + j) * 16 + d)];
      }
      float const length = ops::norm(b, 16);
      for (index_t d = 0; d < 16; ++d) b[d] /= length;
    }
  auto const check = [&](auto const& run, auto const& from) {
    for (index_t h = 0; h < 2; ++h)
      for (index_t t = 0; t < run.packed.tokens(0, h); ++t)
        CHECK(worst_row(
                  c, c.k, [&](index_t r, index_t i, index_t d) { return run.packed.key(r, i, d); },
                  h, from(h, t), t) < 1e-3);
    CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
  };
  // Eviction leaves gaps, so positions are stored with the tokens.
  std::vector<float> scores(120);
  for (std::size_t i = 0; i < scores.size(); ++i) scores[i] = static_cast<float>((i * 29) % 23);
  projected<true, false> const key{.rank = 4, .residual = 8};
  codec_pair const projected{key, dense_value<float>{}};
  evidence const ev{token_scores<>{scores.data()}};
  data::room evicted(pipeline{given_scores{}, top_k{{.budget = 30}}, projected}, c.shape.extents(),
                     {});
  evicted.packed.bind({.key = basis.data()});
  REQUIRE(compress(cpu{}, evicted.plan, c.view(), ev, evicted.packed, evicted.scratch).ok());
  check(evicted, [&](index_t h, index_t t) { return evicted.packed.position(0, h, t); });
  // Appended tokens leave the exact tail with the position they had.
  data::shape shorter = c.shape;
  shorter.tokens = 40;
  cache_view<plane<float const, strided>> const prompt{
      shorter.extents(), {c.k.data(), {0, 60 * 16, 16, 1}}, {c.v.data(), {0, 60 * 16, 16, 1}}};
  data::room grown(projected, shorter.extents(), {.append_tokens = 20});
  grown.packed.bind({.key = basis.data()});
  REQUIRE(compress(cpu{}, grown.plan, prompt, evidence<>{}, grown.packed, grown.scratch).ok());
  data::buffer scratch(append_bytes(grown.plan.layout())),
      coding(settle_bytes(grown.plan.layout()));
  for (index_t t = 40; t < 60; ++t) {
    rows_view<float const> const k{c.k.data() + t * 16, 1, 2, 1, 16, {0, 60 * 16, 16, 1}},
        v{c.v.data() + t * 16, 1, 2, 1, 16, {0, 60 * 16, 16, 1}};
    REQUIRE(append(cpu{}, grown.packed, k, v, scratch).ok());
    REQUIRE(settle(cpu{}, grown.packed, coding).ok());
  }
  CHECK(grown.packed.raw_row(0).key_coded == 52);
  check(grown, [](index_t, index_t t) { return t; });
}
