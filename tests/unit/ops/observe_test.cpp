// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/catch.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

using namespace kvslim;

namespace {

/// Everything that a scorer is told: masses with weights that tell queries apart, and the order.
struct told {
  float sum = 0.0f;
  std::int32_t born = 0, looks = 0, last = -1, in_order = 1;
};
template <reduce Heads>
struct listener {
  static constexpr scorer_traits<told, needs_window_queries> traits{.observes = true,
                                                                    .heads = Heads};
  KVSLIM_HD told born(place const& at) const { return {.born = at.position}; }
  KVSLIM_HD void observe(told& x, float mass, place const& at) const {
    x.sum += mass * static_cast<float>(at.now % 3 + 1);
    x.in_order = x.in_order != 0 && at.now > x.last && at.visible == at.now + 1 ? 1 : 0;
    x.last = at.now;
    ++x.looks;
  }
  KVSLIM_HD float score(auto const& token) const { return token.column().sum; }
};

/// What the listener should have summed up of each token of a row of n.
std::vector<double> expected_of(data::cache const& c, index_t r, index_t n, index_t window,
                                reduce how, logit_rule const& logit,
                                std::vector<float> const& bias) {
  index_t const s = r / c.shape.kv_heads, h = r % c.shape.kv_heads;
  auto const k = oracle::keys(c, s, h, n);
  auto const heads = oracle::window(c, s, h, window);
  std::vector<double> sum(static_cast<std::size_t>(n), 0.0);
  for (index_t w = std::max<index_t>(0, window - n); w < window; ++w) {
    index_t const visible = n - window + w + 1;
    std::vector<double> paid(static_cast<std::size_t>(visible), 0.0);
    for (auto const& head : heads) {
      std::vector<double> p;
      double most = -INFINITY, total = 0;
      for (std::size_t t = 0; t < paid.size(); ++t) {
        double x = reference::dot(head[static_cast<std::size_t>(w)], k[t]) *
                   static_cast<double>(detail::logit_scale(logit, c.shape.head_dim));
        if (logit.soft_cap > 0) x = logit.soft_cap * std::tanh(x / logit.soft_cap);
        p.push_back(x + bias[t]);
        most = std::max(most, p.back());
      }
      for (double const x : p) total += most > -INFINITY ? std::exp(x - most) : 0;
      for (std::size_t t = 0; t < paid.size(); ++t) {
        double const x = total > 0 ? std::exp(p[t] - most) / total : 0;
        paid[t] = how == reduce::maximum ? std::max(paid[t], x) : paid[t] + x;
      }
    }
    for (std::size_t t = 0; t < paid.size(); ++t)
      sum[t] += paid[t] / (how == reduce::mean ? static_cast<double>(heads.size()) : 1.0) *
                static_cast<double>((visible - 1) % 3 + 1);
  }
  return sum;
}

template <reduce Heads>
void matches(data::shape const& shape, index_t window, logit_rule const& logit, bool biased) {
  data::cache const c(shape, static_cast<unsigned>(shape.group));
  std::vector<std::int32_t> lengths{static_cast<std::int32_t>(shape.tokens), 37};
  auto view = c.view();
  view.lengths = lengths.data();
  std::vector<float> bias(static_cast<std::size_t>(2 * shape.tokens), 0.0f);
  for (std::size_t i = 0; i < bias.size() && biased; ++i)
    bias[i] = i % 5 == 0 || i % static_cast<std::size_t>(shape.tokens) < 3
                  ? -std::numeric_limits<float>::infinity()  // the first queries see nothing
                  : 0.25f * static_cast<float>(i % 4);
  if (biased) view.bias = bias.data();
  auto const& e = view.extents();
  std::vector<told> columns(static_cast<std::size_t>(e.rows() * e.tokens));
  std::vector<float> scratch(static_cast<std::size_t>(e.rows() * ops::observe_floats(e)), NAN);
  REQUIRE(ops::observe_queries(
              cpu{}, listener<Heads>{}, text<decltype(view)>{view}, rows<>(c.queries(window)),
              logit, static_cast<std::byte*>(static_cast<void*>(columns.data())), scratch.data())
              .ok());
  for (index_t r = 0; r < e.rows(); ++r) {
    index_t const s = r / shape.kv_heads, n = lengths[static_cast<std::size_t>(s)];
    auto const mine =
        std::vector<float>(bias.begin() + s * shape.tokens, bias.begin() + (s + 1) * shape.tokens);
    auto const expected = expected_of(c, r, n, window, Heads, logit, mine);
    for (index_t t = 0; t < n; ++t) {
      auto const& x = columns[static_cast<std::size_t>(r * e.tokens + t)];
      double const y = expected[static_cast<std::size_t>(t)];
      REQUIRE(x.born == t);
      REQUIRE(x.in_order == 1);
      REQUIRE(x.looks == std::min(window, n - t));
      REQUIRE(std::abs(x.sum - y) <= tolerance::accumulated * std::max(1.0, y));
    }
  }
}

}  // namespace

TEST_CASE("a scorer is shown every query's masses in order, for any group of heads", "[observe]") {
  for (index_t const group : {1, 3, 5, 8, 64, 70, 130})  // 64 are looked at together
    for (index_t const window : {1, 2, 33, 64}) {
      data::shape const shape{
          .sequences = 2, .kv_heads = 2, .group = group, .tokens = 70, .head_dim = 12};
      matches<reduce::mean>(shape, window, {}, false);
      matches<reduce::maximum>(shape, window, {.scale = 0.5f, .soft_cap = 3.0f}, true);
      matches<reduce::sum>(shape, window, {}, true);
    }
  matches<reduce::mean>({.sequences = 2, .group = 4, .tokens = 90, .head_dim = 80}, 64, {}, false);
  matches<reduce::mean>({.sequences = 2, .group = 2, .tokens = 90, .head_dim = 128}, 64, {}, false);
}
