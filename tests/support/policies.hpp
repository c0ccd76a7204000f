// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Policies as somebody else would write them, one for each seam that no shipped method has to
// itself.

#include <kvslim/kvslim.hpp>

namespace policies {

using namespace kvslim;

/// What a token has been paid in all, when it was born, and how often it was looked at.
struct ledger {
  float sum;
  std::int32_t born, looks;
};

/// Heavy hitters, with a record that shows every call.
struct heavy {
  static constexpr scorer_traits<ledger, needs_window_queries> traits{.observes = true,
                                                                      .heads = reduce::sum};
  KVSLIM_HD ledger born(place const& at) const { return {0.0f, at.position, 0}; }
  KVSLIM_HD void observe(ledger& x, float mass, place const&) const {
    x.sum += mass;
    ++x.looks;
  }
  KVSLIM_HD float score(auto const& token) const { return token.column().sum; }
};

/// Prefers late tokens and large third channels of V.
struct third_party {
  static constexpr scorer_traits<> traits{};
  KVSLIM_HD float score(auto const& token) const {
    return token.value()[3] + 0.01f * static_cast<float>(token.position());
  }
};

/// Rows of one sequence contest `each` seats a head; every row is sure of `sure`.
struct contested {
  static constexpr quota_traits traits{.contests = true};
  index_t each = 10, sure = 0, kv_heads = 2;

  [[nodiscard]] constexpr status check(extents const&) const { return {}; }
  [[nodiscard]] KVSLIM_HD constexpr row_group group() const { return {1, kv_heads}; }
  [[nodiscard]] KVSLIM_HD constexpr index_t most(extents const& e) const { return e.tokens; }
  [[nodiscard]] KVSLIM_HD constexpr index_t total(extents const&) const { return each * kv_heads; }
  [[nodiscard]] KVSLIM_HD constexpr contest open(extents const&, index_t) const {
    return {.seats = each * kv_heads, .sure = sure};
  }
  KVSLIM_HD constexpr void allocate(slice<row_facts const> facts, slice<quota> out) const {
    for (index_t i = 0; i < out.size; ++i) out[i].count = facts[i].winners;
  }
};

/// Takes what reaches a score, up to a bound.
struct above {
  static constexpr quota_traits traits{};
  index_t bound = 64;
  float least = 0.5f;

  [[nodiscard]] constexpr status check(extents const&) const { return {}; }
  [[nodiscard]] KVSLIM_HD constexpr row_group group() const { return {}; }
  [[nodiscard]] KVSLIM_HD constexpr index_t most(extents const&) const { return bound; }
  [[nodiscard]] KVSLIM_HD constexpr index_t total(extents const&) const { return bound; }
  KVSLIM_HD constexpr void allocate(slice<row_facts const>, slice<quota> out) const {
    for (quota& q : out) q = {.count = bound, .least = least};
  }
};

/// Gives every row of a group `each`, whatever the group may have.
struct spendthrift {
  static constexpr quota_traits traits{};
  index_t each = 20, may = 30, kv_heads = 2;

  [[nodiscard]] constexpr status check(extents const&) const { return {}; }
  [[nodiscard]] KVSLIM_HD constexpr row_group group() const { return {1, kv_heads}; }
  [[nodiscard]] KVSLIM_HD constexpr index_t most(extents const&) const { return each; }
  [[nodiscard]] KVSLIM_HD constexpr index_t total(extents const&) const { return may; }
  KVSLIM_HD constexpr void allocate(slice<row_facts const>, slice<quota> out) const {
    for (quota& q : out) q = {.count = each};
  }
};

/// Keeps every second unprotected token from the newest on, while the quota lasts.
struct ladder {
  static constexpr keep_traits traits{};

  [[nodiscard]] constexpr status check(extents const&) const { return {}; }
  [[nodiscard]] constexpr index_t scratch_bytes(extents const& e) const { return e.rows() * 4; }
  template <class Exec, class Text>
  status keep(Exec const& exec, Text const& text, score_view, slice<quota const> quotas,
              fate* fates, std::byte* scratch) const {
    auto const e = text.extents();
    exec.for_each(e.rows(), [=](index_t r) {
      auto* const left = static_cast<std::int32_t*>(static_cast<void*>(scratch)) + r;
      index_t const n = text.tokens(r / e.kv_heads, r % e.kv_heads);
      fate* const mine = fates + r * e.tokens;
      *left = static_cast<std::int32_t>(quotas[r].count);
      for (index_t i = 0; i < n; ++i) *left -= mine[i] == fate::sure ? 1 : 0;
      for (index_t i = n - 1; i >= 0 && *left > 0; i -= 2)
        if (mine[i] == fate::evicted) {
          mine[i] = fate::kept;
          --*left;
        }
    });
    return {};
  }
};

/// What quotas with tables read, for two layers of two heads.
inline constexpr std::int32_t head_counts[] = {30, 12, 24, 7};
inline constexpr float head_parts[] = {0.6f, 0.9f, 0.75f, 0.5f};
inline constexpr std::uint8_t head_kinds[] = {0, 1, 0, 0};

static_assert(token_scorer<heavy> && token_scorer<third_party>);
static_assert(quota_policy<contested> && quota_policy<above> && quota_policy<spendthrift>);
static_assert(keep_rule<ladder>);

}  // namespace policies
