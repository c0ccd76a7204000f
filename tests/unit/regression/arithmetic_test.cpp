// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// attend()'s bound where float sums lose most: long rows of equal logits under a sink, outlier
// channels, logits of hundreds.

#include "support/catch.hpp"
#include "support/data.hpp"
#include "support/tolerance.hpp"

using namespace kvslim;

namespace {

struct measured {
  double error = 0.0;    // relative L2 of out
  double lse = 0.0;      // absolute
  double largest = 0.0;  // sum of |q_d k_d|, scaled, of the worst key: what roundings are of
};

/// One query over one stored row of f32, against float64 over what is stored.
measured measure(std::vector<float> const& k, std::vector<float> const& v,
                 std::vector<float> const& q, index_t tokens, index_t dim, index_t splits) {
  data::compressed const c(dense<float>{}, dense_cache(k.data(), v.data(), {1, 1, tokens, dim}));
  REQUIRE(c.result.ok());
  std::vector<float> out(q.size());
  float lse = 0.0f;
  attend_request<> const a{.q = dense_rows<host_space, float const>(q.data(), {1, 1, 1, dim}),
                           .out = dense_rows(out.data(), {1, 1, 1, dim}),
                           .lse = &lse,
                           .splits = splits};
  std::vector<std::byte> scratch(attend_bytes(c.plan.layout(), 1, 1, splits));
  if (splits == 1)
    REQUIRE(attend(cpu{}, c.packed, a).ok());
  else
    REQUIRE(attend(cpu{}, c.packed, a, scratch).ok());
  std::vector<double> logit(static_cast<std::size_t>(tokens)), want(q.size(), 0.0);
  measured m;
  double const scale = 1.0 / std::sqrt(static_cast<double>(dim));
  double high = -1e300, total = 0.0;
  for (index_t t = 0; t < tokens; ++t) {
    double dot = 0.0, terms = 0.0;
    for (index_t d = 0; d < dim; ++d) {
      double const term = static_cast<double>(q[static_cast<std::size_t>(d)]) *
                          static_cast<double>(k[static_cast<std::size_t>(t * dim + d)]);
      dot += term;
      terms += std::abs(term);
    }
    logit[static_cast<std::size_t>(t)] = dot * scale;
    high = std::max(high, dot * scale);
    m.largest = std::max(m.largest, terms * scale);
  }
  for (index_t t = 0; t < tokens; ++t) {
    double const p = std::exp(logit[static_cast<std::size_t>(t)] - high);
    total += p;
    for (index_t d = 0; d < dim; ++d)
      want[static_cast<std::size_t>(d)] +=
          p * static_cast<double>(v[static_cast<std::size_t>(t * dim + d)]);
  }
  double error = 0.0, norm = 0.0;
  for (std::size_t d = 0; d < want.size(); ++d) {
    double const w = want[d] / total;
    error += (w - static_cast<double>(out[d])) * (w - static_cast<double>(out[d]));
    norm += w * w;
  }
  m.error = std::sqrt(error / norm);
  m.lse = std::abs(static_cast<double>(lse) - (high + std::log(total)));
  return m;
}

std::vector<float> normals(std::size_t n, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (float& y : x) y = normal(engine);
  return x;
}

}  // namespace

TEST_CASE("equal keys under a sink stay within the bound at any length",
          "[regression][arithmetic][attend]") {
  // The sink's logit is 14.5 above the others': one float sum would lose each of them.
  index_t const dim = 8, tokens = GENERATE(16384, 1000000), splits = GENERATE(1, 3);
  auto const n = static_cast<std::size_t>(tokens * dim);
  std::vector<float> k(n), v(n, 1.0f), q(static_cast<std::size_t>(dim), 1.0f);
  for (std::size_t i = 0; i < n; ++i) {
    k[i] = 0.25f;
    v[i] = 1.0f + static_cast<float>(i % 7) * 0.01f;
  }
  for (index_t d = 0; d < dim; ++d) {
    k[static_cast<std::size_t>(d)] = 0.25f + 5.13f;
    v[static_cast<std::size_t>(d)] = 0.0f;
  }
  auto const m = measure(k, v, q, tokens, dim, splits);
  INFO("relative L2 " << m.error << ", lse " << m.lse);
  CHECK(m.error <= tolerance::attend);
  CHECK(m.lse <= tolerance::attend);
}

TEST_CASE("outlier channels cost no more than their rounding", "[regression][arithmetic][attend]") {
  // Two channels of K are near 60 and meet queries of the same size with opposite signs.
  index_t const dim = 128, tokens = 4096;
  unsigned const seed = GENERATE(1u, 2u, 3u, 4u);
  auto k = normals(static_cast<std::size_t>(tokens * dim), seed);
  auto const v = normals(k.size(), seed + 10);
  auto q = normals(static_cast<std::size_t>(dim), seed + 20);
  for (std::size_t i = 0; i < k.size(); ++i)
    if (i % 128 == 5 || i % 128 == 70) k[i] = 60.0f + 0.5f * k[i];
  q[5] = 4.0f;
  q[70] = -4.0f;
  auto const m = measure(k, v, q, tokens, dim, 1);
  INFO("relative L2 " << m.error << ", terms " << m.largest);
  CHECK(m.error <= tolerance::attend);
}

TEST_CASE("logits of hundreds cost no more than their rounding",
          "[regression][arithmetic][attend]") {
  index_t const dim = 64, tokens = 2048;
  unsigned const seed = GENERATE(1u, 2u, 3u, 4u);
  float const spread = GENERATE(4.0f, 10.0f);
  auto k = normals(static_cast<std::size_t>(tokens * dim), seed);
  auto const v = normals(k.size(), seed + 10);
  auto q = normals(static_cast<std::size_t>(dim), seed + 20);
  for (float& x : k) x *= spread;
  for (float& x : q) x *= spread;
  auto const m = measure(k, v, q, tokens, dim, 1);
  INFO("relative L2 " << m.error << ", terms " << m.largest);
  CHECK(m.error <= std::max(tolerance::attend, tolerance::attend_terms * m.largest));
}

TEST_CASE("a query or a scale that is no number is refused", "[regression][arithmetic][attend]") {
  data::cache const logical({1, 2, 2, 40, 32});
  data::compressed const c(int_per_token<8>{}, logical.view());
  REQUIRE(c.result.ok());
  for (float const bad : {NAN, -NAN, INFINITY, -INFINITY}) {
    std::vector<float> q(4 * 32, 1.0f), out(q.size(), 7.0f), lse(4, 7.0f);
    q[77] = bad;
    attend_request<> const a{.q = dense_rows<host_space, float const>(q.data(), {1, 4, 1, 32}),
                             .out = dense_rows(out.data(), {1, 4, 1, 32}),
                             .lse = lse.data()};
    CHECK(attend(cpu{}, c.packed, a).code == errc::non_finite);
    CHECK(out == std::vector<float>(out.size(), 7.0f));
    CHECK(lse == std::vector<float>(4, 7.0f));
    auto const plan = make_plan(int_per_token<8>{}, {1, 2, 40, 32}, {.logit = {.scale = bad}});
    CHECK(plan.check().code == errc::invalid_option);
    CHECK(plan.packed_bytes() == 0);
    auto const capped = make_plan(int_per_token<8>{}, {1, 2, 40, 32}, {.logit = {.soft_cap = bad}});
    CHECK(capped.check().code == errc::invalid_option);
  }
}
