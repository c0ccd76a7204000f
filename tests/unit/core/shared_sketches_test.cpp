// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Sketches of users whose stored form reaches beyond one row: MiniCache and xKV (several layers at
// once) and a low-rank key that is rebuilt before RoPE. Each is checked against what it should
// store, computed apart in double. They are not methods.

#include "support/catch.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

#include <cstring>

using namespace kvslim;

namespace {

/// MiniCache: two layers share one direction per token and keep their own norms; the most different
/// tokens stay exact in the state.
struct shared_direction {
  using tail_type = float;
  float share = 0.05f, depth = 0.6f;

  [[nodiscard]] row_group group() const { return {.sequences = 2}; }
  [[nodiscard]] status check(index_t) const { return {}; }
  [[nodiscard]] index_t block_tokens() const { return 1; }
  [[nodiscard]] index_t block_bytes(index_t dim) const { return (dim + 2) * 4; }
  [[nodiscard]] index_t coded(index_t n) const { return n; }
  [[nodiscard]] index_t tail_tokens() const { return 0; }
  [[nodiscard]] bool whole_blocks() const { return false; }

  [[nodiscard]] index_t retained(index_t tokens) const {
    return static_cast<index_t>(std::ceil(share * static_cast<float>(tokens)));
  }
  [[nodiscard]] index_t state_bytes(index_t dim, index_t tokens) const {
    return 4 * (1 + retained(tokens) * (1 + 2 * dim));
  }
  [[nodiscard]] index_t fit_floats(index_t dim, index_t tokens) const { return 2 * dim + tokens; }
  template <class Read>
  void fit(Read const& read, index_t tokens, block_run const& run, std::byte* state,
           float* scratch) const {
    index_t const dim = run.dim, keep = retained(tokens);
    float *const a = scratch, *const b = a + dim, *const closeness = b + dim;
    for (index_t t = 0; t < tokens; ++t) {
      read(0, t, a);
      read(1, t, b);
      closeness[t] = ops::cosine(a, b, dim);
    }
    auto* const list = reinterpret_cast<std::int32_t*>(state);
    auto* const exact = reinterpret_cast<float*>(state) + 1 + keep;
    list[0] = static_cast<std::int32_t>(keep);
    for (index_t i = 0; i < keep; ++i) {
      index_t least = 0;
      for (index_t t = 1; t < tokens; ++t)
        if (closeness[t] < closeness[least]) least = t;
      closeness[least] = 2.0f;
      list[1 + i] = static_cast<std::int32_t>(least);
      read(0, least, exact + 2 * i * dim);
      read(1, least, exact + (2 * i + 1) * dim);
    }
  }
  void encode(float const* rows, block_run const& run, std::byte* block) const {  // [2][1][dim]
    float const *const a = rows, *const b = rows + run.dim;
    auto* const out = reinterpret_cast<float*>(block);
    float const na = ops::norm(a, run.dim), nb = ops::norm(b, run.dim),
                angle = std::acos(ops::cosine(a, b, run.dim));
    for (index_t d = 0; d < run.dim; ++d)
      out[d] = (std::sin((1 - depth) * angle) * a[d] / na + std::sin(depth * angle) * b[d] / nb) /
               std::sin(angle);
    out[run.dim] = na;
    out[run.dim + 1] = nb;
  }
  /// The exact vector of a retained token, else null.
  [[nodiscard]] float const* exact(block_run const& run, index_t i) const {
    auto const* const list = reinterpret_cast<std::int32_t const*>(run.state);
    for (index_t j = 0; j < list[0]; ++j)
      if (list[1 + j] == run.token + i)
        return reinterpret_cast<float const*>(run.state) + 1 + list[0] +
               (2 * j + run.member) * run.dim;
    return nullptr;
  }
  [[nodiscard]] float at(std::byte const* block, block_run const& run, index_t i, index_t d) const {
    if (float const* const x = exact(run, i)) return x[d];
    auto const* const in = reinterpret_cast<float const*>(block + i * block_bytes(run.dim));
    return in[d] * in[run.dim + run.member];
  }
  [[nodiscard]] float decode(std::byte const* block, block_run const& run, index_t d) const {
    return at(block, run, 0, d);
  }
  void dot(std::byte const* block, block_run const& run, float const* q, index_t heads,
           float* scores) const {
    for (index_t h = 0; h < heads; ++h)
      for (index_t i = 0; i < run.n; ++i)
        for (index_t d = 0; d < run.dim; ++d)
          scores[h * run_tokens + i] += q[h * run.dim + d] * at(block, run, i, d);
  }
  void accumulate(std::byte const* block, block_run const& run, float const* p, index_t heads,
                  float* out) const {
    for (index_t h = 0; h < heads; ++h)
      for (index_t i = 0; i < run.n; ++i)
        for (index_t d = 0; d < run.dim; ++d)
          out[h * run.dim + d] += p[h * run_tokens + i] * at(block, run, i, d);
  }
};

struct minicache_like {
  using stage = quantizer_tag;
  [[nodiscard]] constexpr shared_direction key_codec() const { return {}; }
  [[nodiscard]] constexpr shared_direction value_codec() const { return {}; }
  [[nodiscard]] static constexpr std::uint32_t scheme() { return 0xf002; }
};
static_assert(quantizer<minicache_like> && key_codec<shared_direction> &&
              value_codec<shared_direction> && fitted_codec<shared_direction>);

/// Latents of `rank` floats per token. The basis [member, rank, dim] is fitted to the prompt for a
/// group of layers and heads (xKV), or the caller's own, one per kv head (a trained or offline
/// projector). Keys are projected before RoPE and rotated again while read.
template <bool Key, bool Fitted>
struct latent {
  using tail_type = float;
  static constexpr bool uses_positions = Key;
  index_t rank = 4;
  row_group rows = {};
  float const* basis = nullptr;  // [kv_heads, rank, dim] without a fit
  index_t residual = 0;
  rope rotation = {};

  [[nodiscard]] row_group group() const { return rows; }
  [[nodiscard]] status check(index_t dim) const {
    return rotation.fits(dim)
               ? status{}
               : detail::fail(errc::invalid_option, "kvslim: latent needs rope.dims that fit");
  }
  [[nodiscard]] index_t block_tokens() const { return 1; }
  [[nodiscard]] index_t block_bytes(index_t) const { return rank * 4; }
  [[nodiscard]] index_t coded(index_t n) const { return detail::max(0, n - residual); }
  [[nodiscard]] index_t tail_tokens() const { return residual == 0 ? 0 : residual + 1; }
  [[nodiscard]] bool whole_blocks() const { return false; }

  [[nodiscard]] index_t state_bytes(index_t dim, index_t) const requires Fitted {
    return rows.size() * rank * dim * 4;
  }
  [[nodiscard]] index_t fit_floats(index_t dim, index_t) const requires Fitted {
    return (1 + rank) * rows.size() * dim;
  }
  /// Leading right subspace of [tokens, members * dim] by orthogonal iteration, streaming over
  /// tokens.
  template <class Read>
  void fit(Read const& read, index_t tokens, block_run const& run, std::byte* state,
           float* scratch) const requires Fitted {
    index_t const dim = run.dim, width = rows.size() * dim;
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
      for (index_t m = 0; m < rows.size(); ++m)
        for (index_t i = 0; i < rank; ++i)
          std::memcpy(out + (m * rank + i) * dim, sum + i * width + m * dim,
                      static_cast<std::size_t>(dim) * 4);
      if (step == 5) return;
      for (index_t i = 0; i < rank * width; ++i) sum[i] = 0.0f;
      for (index_t t = 0; t < tokens; ++t) {
        for (index_t m = 0; m < rows.size(); ++m) {
          read(m, t, x + m * dim);
          if (Key) ops::rotate(rotation, dim, -run.positions[t], x + m * dim);
        }
        for (index_t i = 0; i < rank; ++i) {
          float along = 0.0f;
          for (index_t m = 0; m < rows.size(); ++m)
            along += ops::dot(x + m * dim, out + (m * rank + i) * dim, dim);
          for (index_t c = 0; c < width; ++c) sum[i * width + c] += along * x[c];
        }
      }
    }
  }
  [[nodiscard]] float const* basis_of(block_run const& run, index_t member) const {
    if constexpr (Fitted)
      return reinterpret_cast<float const*>(run.state) + member * rank * run.dim;
    return basis + run.row % 2 * rank * run.dim;  // two kv heads
  }
  void encode(float const* values, block_run const& run, std::byte* block) const {
    auto* const out = reinterpret_cast<float*>(block);
    std::vector<float> x(static_cast<std::size_t>(run.dim));  // a method would use a fixed array
    for (index_t m = 0; m < rows.size(); ++m) {
      std::memcpy(x.data(), values + m * run.dim, x.size() * 4);
      if (Key) ops::rotate(rotation, run.dim, -run.positions[0], x.data());
      for (index_t i = 0; i < rank; ++i)
        out[i] =
            (m == 0 ? 0.0f : out[i]) + ops::dot(x.data(), basis_of(run, m) + i * run.dim, run.dim);
    }
  }
  void rebuild(std::byte const* block, block_run const& run, index_t i, float* x) const {
    auto const* const z = reinterpret_cast<float const*>(block) + i * rank;
    for (index_t d = 0; d < run.dim; ++d) {
      x[d] = 0.0f;
      for (index_t j = 0; j < rank; ++j) x[d] += z[j] * basis_of(run, run.member)[j * run.dim + d];
    }
    if (Key) ops::rotate(rotation, run.dim, run.positions[i], x);
  }
  [[nodiscard]] float decode(std::byte const* block, block_run const& run, index_t d) const {
    std::vector<float> x(static_cast<std::size_t>(run.dim));
    rebuild(block, run, 0, x.data());
    return x[static_cast<std::size_t>(d)];
  }
  void dot(std::byte const* block, block_run const& run, float const* q, index_t heads,
           float* scores) const {
    std::vector<float> x(static_cast<std::size_t>(run.dim));
    for (index_t i = 0; i < run.n; ++i) {
      rebuild(block, run, i, x.data());
      for (index_t h = 0; h < heads; ++h)
        scores[h * run_tokens + i] += ops::dot(q + h * run.dim, x.data(), run.dim);
    }
  }
  /// The projection is absorbed: weights meet latents, and the basis is applied once.
  void accumulate(std::byte const* block, block_run const& run, float const* p, index_t heads,
                  float* out) const {
    auto const* const z = reinterpret_cast<float const*>(block);
    for (index_t h = 0; h < heads; ++h)
      for (index_t j = 0; j < rank; ++j) {
        float along = 0.0f;
        for (index_t i = 0; i < run.n; ++i) along += p[h * run_tokens + i] * z[i * rank + j];
        for (index_t d = 0; d < run.dim; ++d)
          out[h * run.dim + d] += along * basis_of(run, run.member)[j * run.dim + d];
      }
  }
};

struct xkv_like {
  using stage = quantizer_tag;
  [[nodiscard]] constexpr latent<true, true> key_codec() const {
    return {.rank = 4, .rows = {2, 2}};
  }
  [[nodiscard]] constexpr latent<false, true> value_codec() const {
    return {.rank = 4, .rows = {2, 2}};
  }
  [[nodiscard]] static constexpr std::uint32_t scheme() { return 0xf003; }
};
static_assert(quantizer<xkv_like>);

struct projected_key {
  using stage = quantizer_tag;
  float const* basis = nullptr;
  index_t residual = 8;
  [[nodiscard]] constexpr latent<true, false> key_codec() const {
    return {.rank = 4, .basis = basis, .residual = residual};
  }
  [[nodiscard]] constexpr dense_value<float> value_codec() const { return {}; }
  [[nodiscard]] static constexpr std::uint32_t scheme() { return 0xf004; }
};
static_assert(quantizer<projected_key>);

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

TEST_CASE("sketch: two layers share a direction, keep their norms, and retain what differs most",
          "[sketch]") {
  data::cache c({.sequences = 2, .kv_heads = 2, .tokens = 50, .head_dim = 16});
  std::mt19937 engine(5);
  std::normal_distribution<float> normal;
  auto const layer = c.k.size() / 2;
  for (std::size_t i = 0; i < layer; ++i) {  // neighbouring layers are alike
    c.k[layer + i] = 1.5f * c.k[i] + 0.3f * normal(engine);
    c.v[layer + i] = c.v[i] + 0.3f * normal(engine);
  }
  data::compressed run(minicache_like{}, c.view(), evidence<>{}, 4);
  REQUIRE(run.result.ok());
  REQUIRE(run.storage.intact());
  for (index_t h = 0; h < 2; ++h) {
    auto const a = oracle::keys(c, 0, h), b = oracle::keys(c, 1, h);
    std::vector<std::pair<double, std::size_t>> order;
    for (std::size_t t = 0; t < 50; ++t) {
      double ab = 0, aa = 0, bb = 0;
      for (std::size_t d = 0; d < 16; ++d)
        ab += a[t][d] * b[t][d], aa += a[t][d] * a[t][d], bb += b[t][d] * b[t][d];
      order.emplace_back(ab / std::sqrt(aa * bb), t);
    }
    std::sort(order.begin(), order.end());
    for (std::size_t i = 0; i < 50; ++i) {
      auto const [cosine, t] = order[i];
      double const angle = std::acos(cosine);
      double na = 0, nb = 0;
      for (std::size_t d = 0; d < 16; ++d) na += a[t][d] * a[t][d], nb += b[t][d] * b[t][d];
      for (std::size_t d = 0; d < 16; ++d) {
        double const e = (std::sin(0.4 * angle) * a[t][d] / std::sqrt(na) +
                          std::sin(0.6 * angle) * b[t][d] / std::sqrt(nb)) /
                         std::sin(angle);
        bool const exact = i < 3;  // ceil(0.05 * 50)
        CHECK(std::abs(run.packed.key(h, static_cast<index_t>(t), static_cast<index_t>(d)) -
                       (exact ? a[t][d] : e * std::sqrt(na))) < 1e-4);
        CHECK(std::abs(run.packed.key(2 + h, static_cast<index_t>(t), static_cast<index_t>(d)) -
                       (exact ? b[t][d] : e * std::sqrt(nb))) < 1e-4);
      }
    }
  }
  CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
  // The second layer's rows hold no blocks of their own: of 8 lanes 4 are stored.
  CHECK(run.plan.layout(54, 2).bytes == 0);
  CHECK(static_cast<index_t>(run.packed.bytes()) ==
        run.plan.table_bytes() + run.plan.layout(54, 0).bytes + run.plan.layout(54, 1).bytes);
  // An appended pair is merged too, and the retained list stays.
  auto const before = run.packed.key(2, 7, 3);
  std::vector<float> scratch(append_scratch_floats(run.plan));
  std::vector<float> fresh(64);
  for (float& x : fresh) x = normal(engine);
  rows_shape const one{2, 2, 1, 16};
  REQUIRE(append(cpu{}, run.packed, dense_rows<host_space, float const>(fresh.data(), one),
                 dense_rows<host_space, float const>(fresh.data(), one), scratch.data())
              .ok());
  CHECK(run.packed.key(2, 7, 3) == before);
  float norm = 0;
  for (index_t d = 0; d < 16; ++d) norm += run.packed.key(3, 50, d) * run.packed.key(3, 50, d);
  CHECK(std::abs(std::sqrt(norm) - ops::norm(fresh.data() + 48, 16)) < 1e-4f);
  CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
  // The same bytes after a round trip.
  data::buffer saved(serialized_bytes(run.packed)), other(run.plan.packed_bytes());
  REQUIRE(serialize(run.packed, saved.data(), saved.size()).ok());
  packed_cache const read(run.plan, other);
  REQUIRE(deserialize(saved.data(), saved.size(), read).ok());
  CHECK(read.key(3, 50, 5) == run.packed.key(3, 50, 5));
}

TEST_CASE(
    "sketch: a basis over two layers and their heads is fitted, stored once, and rebuilds keys "
    "before RoPE",
    "[sketch]") {
  data::cache c({.sequences = 2, .kv_heads = 2, .tokens = 40, .head_dim = 16});
  std::vector<std::int32_t> positions(40);
  for (std::size_t t = 0; t < 40; ++t) positions[t] = static_cast<std::int32_t>(3 * t + 5);
  make_low_rank(c, positions);
  auto view = c.view();
  std::vector<std::int32_t> both(positions);
  both.insert(both.end(), positions.begin(), positions.end());
  view.positions = both.data();
  data::compressed const run(xkv_like{}, view, evidence<>{});
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
  // Four floats a token and lane for four rows; the basis once; 4 bytes of position in each row.
  auto const first = run.plan.layout(40, 0), other = run.plan.layout(40, 3);
  CHECK(first.key_blocks - first.key_state == 4 * 4 * 16 * 4);
  CHECK(first.key_tail - first.key_blocks == 40 * 4 * 4);
  CHECK(other.bytes == detail::round_up(40 * 4, 64));
}

TEST_CASE("sketch: rows that share blocks must keep the same tokens, and groups must divide",
          "[sketch]") {
  data::cache const c({.sequences = 2, .kv_heads = 2, .tokens = 40, .head_dim = 16}),
      odd({.sequences = 3, .kv_heads = 2, .tokens = 40, .head_dim = 16});
  std::vector<float> scores(160);
  for (std::size_t i = 0; i < scores.size(); ++i) scores[i] = static_cast<float>((i * 37) % 11);
  data::compressed const ragged(pipeline{given_scores{}, top_k{{.budget = 10}}, xkv_like{}},
                                c.view(), evidence{token_scores<>{scores.data()}});
  CHECK(ragged.result.code == errc::unsupported);
  CHECK(ragged.storage.untouched());
  for (std::size_t i = 40; i < scores.size(); ++i) scores[i] = scores[i % 40];
  data::compressed const same(pipeline{given_scores{}, top_k{{.budget = 10}}, xkv_like{}}, c.view(),
                              evidence{token_scores<>{scores.data()}});
  CHECK(same.result.ok());
  CHECK(data::compressed(xkv_like{}, odd.view(), evidence<>{}).result.code == errc::invalid_shape);
}

TEST_CASE("sketch: a low-rank key is stored before RoPE and rotated to where its token stands",
          "[sketch]") {
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
  data::compressed const evicted(
      pipeline{given_scores{}, top_k{{.budget = 30}}, projected_key{basis.data()}}, c.view(),
      evidence{token_scores<>{scores.data()}});
  REQUIRE(evicted.result.ok());
  check(evicted, [&](index_t h, index_t t) { return evicted.packed.position(0, h, t); });
  // Appended tokens leave the exact tail with the position they had.
  data::shape shorter = c.shape;
  shorter.tokens = 40;
  cache_view<plane<float const, strided>> const prompt{
      shorter.extents(), {c.k.data(), {0, 60 * 16, 16, 1}}, {c.v.data(), {0, 60 * 16, 16, 1}}};
  data::compressed const grown(projected_key{basis.data()}, prompt, evidence<>{}, 20);
  REQUIRE(grown.result.ok());
  std::vector<float> scratch(append_scratch_floats(grown.plan));
  for (index_t t = 40; t < 60; ++t) {
    rows_view<float const> const k{c.k.data() + t * 16, 1, 2, 1, 16, {0, 60 * 16, 16, 1}},
        v{c.v.data() + t * 16, 1, 2, 1, 16, {0, 60 * 16, 16, 1}};
    REQUIRE(append(cpu{}, grown.packed, k, v, scratch.data()).ok());
  }
  CHECK(grown.packed.row(0).key_coded == 51);
  check(grown, [](index_t, index_t t) { return t; });
}
