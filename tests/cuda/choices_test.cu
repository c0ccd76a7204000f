// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Scorers, quotas, keeps and mergers with options and over caches that nobody chose, on both
// backends: what is kept and stored, and attention. Arguments: how many caches, and a seed. Exits
// 77 (skipped) where there is no GPU.

#include "backend.hpp"
#include "drawn.hpp"
#include "support/policies.hpp"

using namespace on_device;
using namespace kvslim;

namespace {

float any_part() { return static_cast<float>(pick(1, 100)) / 100.0f; }

problem any_problem() {
  extents e{pick(1, 3), pick(1, 3), chance(3) ? pick(20, 60) : pick(61, 400)};
  e.head_dim = pick({16, 24, 32, 40, 64, 80, 128});
  if (chance(5)) e.value_dim = pick({16, 32, 48, 64});
  return {"",
          e,
          {.lengths = chance(3),
           .positions = chance(2),
           .valid = chance(3),
           .bias = chance(4),
           .per_head = chance(3)},
          pick(1, 6)};
}
top_k any_budget(extents const& e) {
  return {{.budget = pick(1, e.tokens), .sinks = pick(0, 5), .recent = pick(0, 12)}};
}

/// make(extents): a policy, for a problem that it takes.
template <class Make>
void choose(char const* method, Make const& make, exactness exact = exactness::bytes) {
  problem p = any_problem();
  auto policy = make(p.e);
  auto const takes = [&] {
    return make_plan(policy, p.e,
                     {.append_tokens = 9,
                      .positions = p.has.positions || p.has.valid,
                      .biases = p.has.bias})
        .check()
        .ok();
  };
  for (int i = 0; i < 200 && !takes(); ++i) {
    p = any_problem();
    policy = make(p.e);
  }
  char name[160];
  std::snprintf(name, sizeof name, "%d x %d rows of %d tokens, %d channels, group %d%s%s%s%s%s",
                static_cast<int>(p.e.sequences), static_cast<int>(p.e.kv_heads),
                static_cast<int>(p.e.tokens), static_cast<int>(p.e.head_dim),
                static_cast<int>(p.group), p.has.lengths ? ", lengths" : "",
                p.has.positions ? ", positions" : "", p.has.valid ? ", padding" : "",
                p.has.bias ? ", biases" : "", p.has.per_head ? ", ragged" : "");
  p.name = name;
  compare(p, method, policy, exact, pick(0, 9));
}

void one_choice(index_t which) {
  auto const tokens = exactness::tokens;
  switch (which) {
    case 0:
      return choose("streaming", [](extents const& e) {
        return pipeline{streaming_llm{}, any_budget(e)};
      });
    case 1:
      return choose("given, kivi 4", [](extents const& e) {
        return pipeline{given_scores{}, any_budget(e), kivi<4>{{.residual = 32}}};
      });
    case 2:
      return choose("shared", [](extents const& e) {
        return pipeline{shared{given_scores{}, row_group{1, e.kv_heads}}, any_budget(e)};
      });
    case 3:
      return choose("snapkv", [](extents const& e) {
        return pipeline{snapkv{{.window = 16,
                                .pool = 2 * pick(0, 6) + 1,
                                .kind = chance(2) ? pooling::maximum : pooling::average,
                                .reduce_first = chance(2)}},
                        any_budget(e), int_per_token<8>{}};
      });
    case 4:
      return choose("keydiff", [](extents const& e) { return pipeline{keydiff{}, any_budget(e)}; });
    case 5:
      return choose("lagkv", [](extents const& e) {
        return pipeline{lagkv{{.lag = pick(1, 90), .value_weight = any_part()}}, any_budget(e)};
      });
    case 6:
      return choose("coverage", [](extents const& e) {
        return pipeline{
            given_scores{},
            coverage{{.part = any_part(), .budget = pick(0, e.tokens), .recent = pick(0, 9)}}};
      });
    case 7:
      return choose("at_least", [](extents const&) {
        return pipeline{given_scores{}, at_least{{.least = static_cast<float>(pick(0, 220)),
                                                  .recent = pick(0, 9)}}};
      });
    case 8:
      return choose("adakv", [](extents const& e) {
        return pipeline{given_scores{}, adakv{{.budget = pick(1, e.tokens),
                                               .kv_heads = e.kv_heads,
                                               .safeguard = chance(3)   ? safeguard::exact
                                                            : chance(2) ? safeguard::authors
                                                                        : safeguard::pin}}};
      });
    case 9:
      return choose("pyramidkv", [](extents const& e) {
        return pipeline{given_scores{}, pyramidkv{{.budget = pick(8, e.tokens),
                                                   .layers = e.sequences,
                                                   .kv_heads = e.kv_heads,
                                                   .rule = chance(3)   ? pyramid::exact
                                                           : chance(2) ? pyramid::authors
                                                                       : pyramid::kvpress}}};
      });
    case 10:
      return choose("dynamickv", [](extents const& e) {
        return pipeline{given_scores{}, dynamickv{{.budget = pick(8, e.tokens),
                                                   .layers = e.sequences,
                                                   .kv_heads = e.kv_heads}}};
      });
    case 11:
      return choose("chunkkv", [](extents const& e) {
        return pipeline{given_scores{}, any_budget(e), chunkkv{{.size = pick(1, 70)}}};
      });
    case 12:
      return choose("kvcrush", [](extents const& e) {
        auto const page = chance(2) ? 1 : 4;
        return pipeline{given_scores{}, any_budget(e),
                        kvcrush{{.page = page,
                                 .anchor = chance(3)   ? code_anchor::alternating
                                           : chance(2) ? code_anchor::mean
                                                       : code_anchor::given,
                                 .spaced = page == 1 ? spacing::stride : spacing::ends,
                                 .bits = static_cast<std::uint64_t>(pick(0, 255))}}};
      });
    case 13:
      return choose("contest", [](extents const& e) {
        return pipeline{given_scores{},
                        policies::contested{pick(1, e.tokens), pick(0, 5), e.kv_heads}};
      });
    case 14:
      return choose("chunked", [](extents const& e) {
        return pipeline{chunked{knorm{}, {.size = pick(1, 80)}}, any_budget(e)};
      });
    case 15:
      return choose("h2o", [](extents const& e) { return pipeline{h2o<>{}, any_budget(e)}; });
    case 16:
      return choose("expected", [](extents const& e) {
        return pipeline{expected_attention<>{}, any_budget(e)};
      });
    case 17:
      return choose(
          "kvmerger",
          [](extents const& e) {
            return pipeline{given_scores{}, any_budget(e), kvmerger{{.threshold = 0.0f}}};
          },
          tokens);
    case 18:
      return choose(
          "cam",
          [](extents const& e) {
            return pipeline{given_scores{}, any_budget(e),
                            cam{{.window = pick(1, 20), .draws = chance(2)}}};
          },
          tokens);
    case 19:
      return choose(
          "d2o",
          [](extents const& e) {
            return pipeline{given_scores{}, any_budget(e),
                            d2o{{.weights = chance(2) ? d2o_weights::counted : d2o_weights::softmax,
                                 .running = false}}};
          },
          tokens);
    case 20:
      return choose(
          "chelsea",
          [](extents const&) {
            return pipeline{
                given_scores{},
                chelsea{{.chunk = pick(2, 60), .part = any_part(), .mass_bias = chance(2)}}};
          },
          tokens);
    case 21:
      return choose(
          "lookm",
          [](extents const& e) {
            return pipeline{given_scores{}, any_budget(e),
                            lookm{{.merge = lookm_merge::weighted,
                                   .filter = chance(3)   ? fold_filter::none
                                             : chance(2) ? fold_filter::mean
                                                         : fold_filter::places,
                                   .mass_bias = chance(2)}}};
          },
          tokens);
    case 22:
      return choose(
          "compensation",
          [](extents const& e) {
            return pipeline{given_scores{}, any_budget(e), compensation_token{}};
          },
          tokens);
    case 23:
      return choose("windowkv", [](extents const& e) {
        return pipeline{
            shared{given_scores{}, row_group{e.sequences, e.kv_heads}, reduce::mean, true},
            windowkv{{.budget = pick(8, e.tokens),
                      .layers = e.sequences,
                      .kv_heads = e.kv_heads,
                      .group_layers = 1,
                      .size = pick(1, 20),
                      .recent = pick(0, 9)}},
            chunkkv{{.size = 9}}};
      });
    case 24:
      return choose("qfilters", [](extents const& e) {
        return pipeline{qfilters{}, any_budget(e)};
      });
    case 25:
      return choose("kvzip", [](extents const& e) {
        return pipeline{kvzip{{.sinks = pick(0, 9), .squared = chance(2)}}, any_budget(e)};
      });
    case 26:
      return choose("lazy", [](extents const& e) {
        return pipeline{lazy_eviction{}, any_budget(e)};
      });
    case 27:
      return choose("cake", [](extents const& e) {
        return pipeline{cake_scores{{.window = 16}}, cake{{.budget = pick(8, e.tokens),
                                                           .layers = e.sequences,
                                                           .kv_heads = e.kv_heads,
                                                           .slack = pick(0, 9)}}};
      });
    default:
      return choose("curdkv", [](extents const& e) {
        return pipeline{curdkv{{.kind = chance(2) ? leverage::product : leverage::average}},
                        any_budget(e)};
      });
  }
}

}  // namespace

int main(int count, char** words) {
  return draw_caches(count, words, 58, [](int i) { one_choice(i % 29); });
}
