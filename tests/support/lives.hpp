// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// What tests of codecs ask of a stored cache's life, whatever it stores.

#include "support/catch.hpp"
#include "support/life.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

#include <kvslim/kvslim.hpp>

namespace data {

/// The error of attention over the cache once it was written out and read in; 1e9 if refused.
template <class Plan, class Packed>
double read_back_error(Plan const& plan, Packed const& packed, cache const& c) {
  std::vector<std::byte> bytes(kvslim::serialized_bytes(packed));
  buffer storage(plan.packed_bytes());
  kvslim::packed_cache const other(plan, storage);
  if (!kvslim::serialize(packed, bytes.data(), bytes.size()) ||
      !kvslim::deserialize(bytes.data(), bytes.size(), other))
    return 1e9;
  return oracle::attend_error(other, c);
}

/// Tokens come and are coded one by one; what is stored stays within `loss` of what was given, and
/// attention reads it on every path of the processor, and once it was read in.
template <class Policy>
void lives_coded(Policy const& policy, shape const& of, int steps, double loss) {
  CAPTURE(of.head_dim, of.value_dim, of.group);
  cache const c(of);
  compressed const run(policy, c.view(), {}, {.append_tokens = steps + 5});
  INFO(run.result.message);
  REQUIRE(run.result.ok());
  life now(run.packed, c);
  for (int i = 0; i < steps; ++i) {
    REQUIRE(now.append().ok());
    REQUIRE(now.settle().ok());
  }
  CHECK((now.intact() && run.intact()));
  CHECK(now.storage_error() <= loss);
  auto const before = kvslim::isa::current();
  for (auto const path : kvslim::isa::every_path) {
    static_cast<void>(kvslim::isa::use(path));
    CHECK(oracle::attend_error(run.packed, c, 2) <= tolerance::attend);
  }
  static_cast<void>(kvslim::isa::use(before));
  CHECK(read_back_error(run.plan, run.packed, c) <= tolerance::attend);
}

/// A budget of 50 tokens holds while tokens come and the least go, and attention reads what stays.
template <class Quantizer>
void holds_budget(Quantizer const& quantizer, int steps) {
  using namespace kvslim;
  cache const c({.kv_heads = 2, .tokens = 90, .head_dim = 64});
  compressed const run(pipeline{knorm{}, top_k{{.budget = 50, .sinks = 4}}, quantizer}, c.view(),
                       {}, {.append_tokens = 2, .evicts = true});
  REQUIRE(run.result.ok());
  life now(run.packed, c);
  std::vector<std::byte> scratch(victim_bytes(run.plan));
  for (int i = 0; i < steps; ++i) {
    REQUIRE(now.append().ok());
    std::vector<std::int32_t> victims(2);
    REQUIRE(choose_victims(cpu{}, run.plan, run.packed, victims.data(), scratch).ok());
    REQUIRE(evict(cpu{}, run.packed, victims.data()).ok());
    REQUIRE(now.settle().ok());
    REQUIRE(oracle::attend_error(run.packed, c) <= tolerance::attend);
  }
  CHECK(run.packed.tokens(0, 0) == 50);
}

/// Tokens come, every fifth time an early one goes, and attention reads what stays, also once it
/// was read in.
template <class Plan, class Packed>
void lives_evicting(Plan const& plan, Packed const& packed, cache const& c) {
  life now(packed, c);
  for (int i = 0; i < 35; ++i) {
    REQUIRE(now.append().ok());
    std::vector<std::int32_t> const victims(static_cast<std::size_t>(c.shape.rows()), i / 5);
    if (i % 5 == 4) REQUIRE(kvslim::evict(kvslim::cpu{}, packed, victims.data()).ok());
    REQUIRE(now.settle().ok());
  }
  CHECK(oracle::attend_error(packed, c) <= tolerance::attend);
  CHECK(read_back_error(plan, packed, c) <= tolerance::attend);
}

/// A row as it is stored, with what each token stands for, in a reference's own type: its K, its V
/// and its mass.
template <class Rows, class Packed>
Rows stored_row(Packed const& packed, index_t r) {
  Rows out;
  for (index_t i = 0; i < packed.raw_row(r).slots; ++i) {
    out.k.emplace_back();
    out.v.emplace_back();
    for (index_t d = 0; d < packed.extents().head_dim; ++d)
      out.k.back().push_back(packed.key(r, i, d));
    for (index_t d = 0; d < packed.extents().value_width(); ++d)
      out.v.back().push_back(packed.value(r, i, d));
    out.mass.push_back(std::exp(static_cast<double>(packed.logit_bias(r, i))));
  }
  return out;
}

}  // namespace data
