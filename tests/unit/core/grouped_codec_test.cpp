// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// A codec whose rows share blocks and whose state is fitted, checked against what it should store,
// computed apart in double. A sketch of a method, to show that the seam carries it.

#include "support/catch.hpp"
#include "support/life.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

#include <cstring>

using namespace kvslim;

namespace {

/// After MiniCache: two layers share one direction per token and keep their own norms; the most
/// different tokens stay exact in the state.
struct paired_layers {
  using tail_type = float;
  static constexpr codec_traits traits{.form = form_id{0xf002}, .grouped = true, .fitted = true};
  float share = 0.05f, depth = 0.6f;

  [[nodiscard]] constexpr row_group group() const { return {.sequences = 2}; }
  [[nodiscard]] constexpr status check(index_t) const { return {}; }
  [[nodiscard]] constexpr codec_sizes sizes(index_t dim, index_t tokens) const {
    return {.block_bytes = (dim + 2) * 4,
            .state_bytes = 4 * (1 + retained(tokens) * (1 + 2 * dim)),
            .fit_floats = 2 * dim + tokens};
  }
  [[nodiscard]] constexpr float limit() const { return largest_finite<float>(); }
  [[nodiscard]] constexpr form written() const {
    return {traits.form.value,
            {detail::bit_cast<std::uint32_t>(share), detail::bit_cast<std::uint32_t>(depth)}};
  }
  [[nodiscard]] static constexpr status read(form const& f, paired_layers& out) {
    if (f.id != traits.form.value) return detail::fail(errc::foreign, "kvslim: another codec");
    out = {detail::bit_cast<float>(f.words[0]), detail::bit_cast<float>(f.words[1])};
    return {};
  }
  [[nodiscard]] constexpr index_t retained(index_t tokens) const {
    auto const whole = static_cast<index_t>(share * static_cast<float>(tokens));
    return whole + (static_cast<float>(whole) < share * static_cast<float>(tokens) ? 1 : 0);
  }
  template <class Read>
  void fit(Read const& read, index_t tokens, site const& at, std::byte* state,
           float* scratch) const {
    index_t const dim = at.dim, keep = retained(tokens);
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
  void encode(float const* rows, site const& at, std::byte* block) const {  // [2][1][dim]
    float const *const a = rows, *const b = rows + at.dim;
    auto* const out = reinterpret_cast<float*>(block);
    float const na = ops::norm(a, at.dim), nb = ops::norm(b, at.dim),
                angle = std::acos(ops::cosine(a, b, at.dim));
    for (index_t d = 0; d < at.dim; ++d)
      out[d] = (std::sin((1 - depth) * angle) * a[d] / na + std::sin(depth * angle) * b[d] / nb) /
               std::sin(angle);
    out[at.dim] = na;
    out[at.dim + 1] = nb;
  }
  /// The exact vector of a retained token, else null.
  [[nodiscard]] float const* exact(site const& at, index_t i) const {
    auto const* const list = reinterpret_cast<std::int32_t const*>(at.state);
    for (index_t j = 0; j < list[0]; ++j)
      if (list[1 + j] == at.token + i)
        return reinterpret_cast<float const*>(at.state) + 1 + list[0] +
               (2 * j + at.member) * at.dim;
    return nullptr;
  }
  [[nodiscard]] float part(std::byte const* block, site const& at, index_t i, index_t d) const {
    if (float const* const x = exact(at, i)) return x[d];
    auto const* const in = reinterpret_cast<float const*>(block + i * (at.dim + 2) * 4);
    return in[d] * in[at.dim + at.member];
  }
  [[nodiscard]] float decode(std::byte const* block, site const& at, index_t d) const {
    return part(block, at, 0, d);
  }
  void dot(std::byte const* block, site const& at, float const* q, index_t heads,
           float* scores) const {
    for (index_t h = 0; h < heads; ++h)
      for (index_t i = 0; i < at.n; ++i)
        for (index_t d = 0; d < at.dim; ++d)
          scores[h * run_tokens + i] += q[h * at.dim + d] * part(block, at, i, d);
  }
  void accumulate(std::byte const* block, site const& at, float const* p, index_t heads,
                  float* out) const {
    for (index_t h = 0; h < heads; ++h)
      for (index_t i = 0; i < at.n; ++i)
        for (index_t d = 0; d < at.dim; ++d)
          out[h * at.dim + d] += p[h * run_tokens + i] * part(block, at, i, d);
  }
};

static_assert(key_codec<paired_layers> && value_codec<paired_layers>);

}  // namespace

TEST_CASE("two layers share a direction, keep their norms, and retain what differs most",
          "[codec][grouped]") {
  data::cache c({.sequences = 2, .kv_heads = 2, .tokens = 50, .head_dim = 16});
  std::mt19937 engine(5);
  std::normal_distribution<float> normal;
  auto const layer = c.k.size() / 2;
  for (std::size_t i = 0; i < layer; ++i) {  // neighbouring layers are alike
    c.k[layer + i] = 1.5f * c.k[i] + 0.3f * normal(engine);
    c.v[layer + i] = c.v[i] + 0.3f * normal(engine);
  }
  data::compressed const run(codec_pair{paired_layers{}, paired_layers{}}, c.view(), evidence<>{},
                             {.append_tokens = 4});
  REQUIRE(run.result.ok());
  REQUIRE(run.intact());
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
  // The second layer's rows hold no blocks of their own, only rings for a draft.
  auto const layout = run.plan.layout();
  CHECK(layout.parts(54, 2).key_tail == 0);
  CHECK(layout.parts(54, 2).bytes == 16 * 16 * 4 + 16 * 4);
  CHECK(static_cast<index_t>(run.packed.bytes()) ==
        layout.table_bytes() + 2 * layout.parts(54, 0).bytes + 2 * layout.parts(54, 2).bytes);
  // An appended pair is merged too, and the retained list stays.
  auto const before = run.packed.key(2, 7, 3);
  data::buffer scratch(append_bytes(layout)), coding(settle_bytes(layout));
  std::vector<float> fresh(64);
  for (float& x : fresh) x = normal(engine);
  rows_shape const one{2, 2, 1, 16};
  REQUIRE(append(cpu{}, run.packed, dense_rows(fresh.data(), one), dense_rows(fresh.data(), one),
                 scratch)
              .ok());
  // Until both layers have settled, the pair is exact; one layer alone cannot settle.
  CHECK(run.packed.key(3, 50, 7) == fresh[48 + 7]);
  CHECK(settle(cpu{}, run.packed, coding, {.sequences = 1}).code == errc::invalid_shape);
  CHECK(settle(cpu{}, run.packed, coding, {.first_sequence = 1}).code == errc::invalid_shape);
  REQUIRE(settle(cpu{}, run.packed, coding).ok());
  CHECK(scratch.intact());
  CHECK(coding.intact());
  CHECK(run.packed.key(3, 50, 7) != fresh[48 + 7]);
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

TEST_CASE("rows that share blocks arrive one by one and settle together", "[codec][grouped]") {
  data::cache const c({.sequences = 2, .kv_heads = 2, .tokens = 50, .head_dim = 16});
  data::compressed const run(codec_pair{paired_layers{}, dense_value<f16>{}}, c.view(),
                             evidence<>{}, {.append_tokens = 4, .draft_tokens = 4});
  data::life life(run.packed, c);
  REQUIRE(life.append(2, {.first_sequence = 0, .sequences = 1}).ok());
  auto const before = data::bytes_of(run.packed);
  CHECK(life.settle().code == errc::unsupported);  // the second layer has not come yet
  std::uint8_t const one[] = {1, 0};
  CHECK(life.settle({.active = one}).code == errc::unsupported);
  CHECK(data::bytes_of(run.packed) == before);
  CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
  REQUIRE(life.append(2, {.first_sequence = 1, .sequences = 1}).ok());
  REQUIRE(life.settle().ok());
  CHECK(run.packed.raw_row(2).key_coded == 52);
  CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
  // Tokens of shared blocks do not leave one by one.
  std::int32_t const victims[] = {0, 0, 0, 0};
  CHECK(evict(cpu{}, run.packed, victims).code == errc::unsupported);
}
