// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// The matrix: three pipelines over every layout and element type, and every method over one pair of
// them, so that compile time grows with methods and not with their product.

#include "catch.hpp"
#include "layouts.hpp"
#include "life.hpp"
#include "oracle.hpp"
#include "policies.hpp"
#include "stored.hpp"
#include "tolerance.hpp"

#include <cstring>

namespace matrix {

using namespace kvslim;

/// What every cell of the matrix is about: ragged sequences, padding, and evidence of every kind.
struct scene {
  data::cache c{{.sequences = 2, .kv_heads = 2, .group = 2, .tokens = 75, .head_dim = 32}};
  std::int32_t lengths[2] = {75, 40};
  std::vector<std::uint8_t> valid = std::vector<std::uint8_t>(2 * 75, 1);
  std::vector<float> scores;

  scene() {
    valid[9] = valid[80] = 0;
    valid[30] = 2;
    for (index_t i = 0; i < 2 * 2 * 75; ++i) scores.push_back(static_cast<float>(i * 7919 % 101));
  }
  [[nodiscard]] auto evidence() const {
    return kvslim::evidence{window_queries{c.queries(8)},
                            token_scores<>{scores.data()},
                            query_filters{filters()},
                            raw_queries{c.queries(64)},
                            query_statistics{statistics(1), statistics(32)},
                            probes{c.queries(30)},
                            output_projection{statistics(32)},
                            hidden_states{dense_rows(c.q.data(), {2, 1, 75, 12})},
                            gate()};
  }
  /// Of one layer, 8 channels and 3 sinks, over states of 12 numbers.
  [[nodiscard]] gate_weights<> gate() const {
    auto const part = [&](rows_shape const& s) { return dense_rows(c.q.data() + 5, s); };
    return {part({1, 4, 8, 12}), part({1, 4, 1, 8}), part({1, 1, 1, 8}), part({1, 2, 8, 12}),
            part({1, 1, 1, 8}),  part({1, 2, 3, 8}), part({1, 2, 1, 2})};
  }
  /// One of each KV head for both sequences: rows of Q, whose values are as good as any.
  [[nodiscard]] rows_view<float const> filters() const {
    return dense_rows(c.q.data(), {1, 2, 1, 32});
  }
  /// n rows for each query head, of one layer.
  [[nodiscard]] rows_view<float const> statistics(index_t n) const {
    return dense_rows(c.q.data(), {1, 4, n, 32});
  }
  template <class View>
  [[nodiscard]] View ragged(View view) const {
    view.lengths = lengths;
    view.valid = valid.data();
    return view;
  }
};

/// Room for three more tokens; padding leaves gaps, so positions are stored.
inline constexpr plan_options options{.append_tokens = 3, .positions = true};

/// The stored bytes.
template <class Policy, class View>
std::vector<std::byte> stored(scene const& at, Policy const& policy, View const& view) {
  data::compressed const run(policy, at.ragged(view), at.evidence(), options);
  INFO(run.result.message);
  REQUIRE(run.result.ok());
  CHECK(run.intact());
  return {run.storage.data(), run.storage.data() + run.packed.bytes()};
}

/// Every layout stores the same bytes.
template <class T, class Policy>
void over_layouts(char const* name, Policy const& policy) {
  INFO(name);
  scene const at;
  data::layouts<T> source(at.c);
  auto const expected = stored(at, policy, source.dense());
  CHECK(stored(at, policy, source.token_major()) == expected);
  CHECK(stored(at, policy, source.transposed_reversed()) == expected);
  CHECK(stored(at, policy, source.slots()) == expected);
  CHECK(stored(at, policy, source.pages(16)) == expected);
  CHECK(stored(at, policy, source.pages(7)) == expected);
  CHECK(stored(at, policy, source.head_pages(7)) == expected);
  CHECK(stored(at, policy, source.csr(16)) == expected);
  CHECK(stored(at, policy, source.scattered()) == expected);
}

/// The three pipelines: a bulk scorer with merging and whole blocks; a scorer that observes, with a
/// contest, a keep rule and single tokens; moved keys.
template <class T>
void three_pipelines() {
  top_k const keep{{.budget = 30, .sinks = 2, .recent = 4}};
  over_layouts<T>("snapkv, top_k, kvmerger, kivi",
                  pipeline{snapkv{{.window = 8, .pool = 3}}, keep,
                           kvmerger{{.threshold = 0.6f, .mass_bias = true}},
                           kivi<2>{{.group = 32, .residual = 32}}});
  over_layouts<T>("an observer, a contest, a ladder, int 4",
                  pipeline{policies::heavy{}, policies::contested{.each = 24}, policies::ladder{},
                           int_per_token<4>{{.residual = 5}}});
  over_layouts<T>("a third party's score, moved keys, f16",
                  pipeline{policies::third_party{}, keep, rerotate{{.interleaved = true}}});
}

template <int Layout, class T>
auto layout_of(data::layouts<T>& source) {
  if constexpr (Layout == 0) return source.token_major();
  if constexpr (Layout == 1) return source.transposed_reversed();
  if constexpr (Layout == 2) return source.slots();
  if constexpr (Layout == 3) return source.pages(16);
  if constexpr (Layout == 4) return source.head_pages(7);
  if constexpr (Layout == 5) return source.csr(7);
  if constexpr (Layout == 6) return source.scattered();
}

template <int Type>
using type_of = std::tuple_element_t<Type, std::tuple<float, f16, bf16, e4m3, e5m2>>;

/// One method over the pair of row `Row` of the table: its storage is that of a plain view,
/// attention reads what it decodes to, a reader gets the same bytes back, and it takes new tokens.
template <int Row, class Policy>
void method(Policy const& policy) {
  using T = type_of<Row % 5>;
  scene const at;
  auto const basis = data::rows(4 * 40, 32, 0.1f);  // for codecs that read one
  data::tables = {basis.data(), basis.data()};
  data::layouts<T> source(at.c);
  auto const expected = stored(at, policy, source.dense());
  auto const view = at.ragged(layout_of<Row % 7>(source));
  data::compressed const run(policy, view, at.evidence(), options);
  REQUIRE(run.result.ok());
  REQUIRE(run.packed.bytes() == expected.size());
  CHECK(std::memcmp(run.storage.data(), expected.data(), expected.size()) == 0);
  CHECK(oracle::attend_error(run.packed, at.c, 2) <= tolerance::attend);
  data::room const reader(policy, view.extents(), options);
  std::vector<std::byte> bytes(serialized_bytes(run.packed));
  REQUIRE(serialize(run.packed, bytes.data(), bytes.size()).ok());
  REQUIRE(deserialize(bytes.data(), bytes.size(), reader.packed).ok());
  CHECK(data::bytes_of(reader.packed) == data::bytes_of(run.packed));
  data::life life(reader.packed, at.c);
  for (int i = 0; i < 3; ++i) {
    REQUIRE(life.append().ok());
    REQUIRE(life.settle().ok());
  }
  CHECK(oracle::attend_error(reader.packed, at.c) <= tolerance::attend);
  CHECK(reader.storage.intact());
  data::tables = {};
}

}  // namespace matrix
