// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "reference/reference.hpp"
#include "support/catch.hpp"
#include "support/tolerance.hpp"

#include <kvslim/exec/cpu.hpp>
#include <kvslim/isa/path.hpp>
#include <kvslim/ops/attention_mass.hpp>

#include <random>
#include <vector>

using namespace kvslim;

namespace {

struct problem {
  index_t group, window, tokens, dim, kernel;
};

/// Every path's scores of a row of f16 keys, whose rows are `step` rows apart, against the
/// reference.
void check(problem const& p, index_t step) {
  std::mt19937 engine(static_cast<unsigned>(p.group * 1000 + p.window));
  std::normal_distribution<float> normal;
  std::vector<f16> k(static_cast<std::size_t>(p.tokens * step * p.dim));
  std::vector<float> q(static_cast<std::size_t>(p.group * p.window * p.dim));
  for (f16& x : k) x = from_float<f16>(normal(engine));
  for (float& x : q) x = normal(engine);
  reference::matrix keys;
  for (index_t t = 0; t < p.tokens; ++t) {
    keys.emplace_back();
    for (index_t d = 0; d < p.dim; ++d)
      keys.back().push_back(to_float(k[static_cast<std::size_t>(t * step * p.dim + d)]));
  }
  std::vector<reference::matrix> queries;
  for (index_t g = 0; g < p.group; ++g) {
    queries.emplace_back();
    for (index_t w = 0; w < p.window; ++w) {
      float const* const row = q.data() + (g * p.window + w) * p.dim;
      queries.back().emplace_back(row, row + p.dim);
    }
  }
  auto view = dense_cache(k.data(), k.data(), {1, 1, p.tokens, p.dim});
  view.k.layout.token = step * p.dim;
  text<decltype(view)> const seen{view, {}};
  rows<> const window = dense_rows(q.data(), {1, p.group, p.window, p.dim});
  isa::path const before = isa::current();
  for (auto const path : isa::every_path) {
    if (isa::use(path) != path) continue;
    CHECK(kvslim::detail::with_score_kernels([](auto) {}) == (path != isa::path::portable));
    for (auto const kind : {pooling::average, pooling::maximum}) {
      // Memory of exactly the size that is promised, at no address that a vector would choose.
      auto const floats = static_cast<std::size_t>(ops::mass_floats(view.extents(), p.window));
      std::vector<float> out(static_cast<std::size_t>(p.tokens), NAN), scratch(floats + 1);
      REQUIRE(ops::attention_mass(cpu{}, seen, window, {.kind = kind, .kernel = p.kernel},
                                  {out.data(), p.tokens}, scratch.data() + 1));
      auto expected = reference::snapkv(queries, keys, static_cast<int>(p.kernel),
                                        kind == pooling::maximum, reference::reduce::mean);
      expected.resize(out.size(), 0.0);
      for (std::size_t t = 0; t < out.size(); ++t)
        REQUIRE(std::abs(static_cast<double>(out[t]) - expected[t]) <= tolerance::accumulated);
    }
  }
  isa::use(before);
}

}  // namespace

TEST_CASE("attention mass of any number of queries is the reference's on every path",
          "[attention_mass]") {
  check({.group = 4, .window = 32, .tokens = 200, .dim = 128, .kernel = 5}, 1);
  check({.group = 1, .window = 1, .tokens = 2, .dim = 3, .kernel = 1}, 1);
  check({.group = 3, .window = 33, .tokens = 61, .dim = 80, .kernel = 101}, 1);
  check({.group = 130, .window = 1, .tokens = 49, .dim = 20, .kernel = 7}, 2);
  check({.group = 2, .window = 130, .tokens = 180, .dim = 64, .kernel = 3}, 3);
}
