// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/catch.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"

#include <kvslim/score/random_scores.hpp>

#include <set>

using namespace kvslim;

TEST_CASE("random scores depend on the token, not on where it lies", "[random_scores]") {
  data::cache const c({.sequences = 2, .kv_heads = 2, .tokens = 120, .head_dim = 16});
  pipeline const policy{random_scores{{.seed = 5}}, top_k{{.budget = 30}}};
  auto const kept = data::kept_by(policy, c.view());
  data::shuffled const other(c, 17);
  CHECK(data::kept_by(policy, other.view()) == kept);
  CHECK(data::kept_by(pipeline{random_scores{{.seed = 6}}, top_k{{.budget = 30}}}, c.view()) !=
        kept);
  CHECK(std::set(kept.begin(), kept.end()).size() == 4);  // rows draw apart
}

TEST_CASE("random scores are uniform in [0, 1)", "[random_scores]") {
  data::cache const c({.sequences = 1, .kv_heads = 4, .tokens = 4000, .head_dim = 4});
  auto const scores = data::scores_by(pipeline{random_scores{}, top_k{{.budget = 1}}}, c.view());
  double sum = 0, squares = 0;
  int buckets[16] = {};
  for (float const x : scores) {
    REQUIRE((x >= 0.0f && x < 1.0f));
    sum += x;
    squares += static_cast<double>(x) * x;
    ++buckets[static_cast<int>(x * 16.0f)];
  }
  auto const n = static_cast<double>(scores.size());
  CHECK(std::abs(sum / n - 0.5) < 4.0 * 0.2887 / std::sqrt(n));  // four standard errors
  CHECK(std::abs(squares / n - 1.0 / 3.0) < 4.0 * 0.298 / std::sqrt(n));
  double chi2 = 0;
  for (int const b : buckets) chi2 += (b - n / 16) * (b - n / 16) / (n / 16);
  CHECK(chi2 < 44.3);  // 15 degrees of freedom, 1 in 10,000
}
