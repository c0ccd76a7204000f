// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/ops/rows.hpp>
#include <kvslim/ops/top_k.hpp>
#include <kvslim/store/packed_cache.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

template <element T>
[[nodiscard]] constexpr float largest() noexcept {
  if constexpr (std::same_as<T, f16>) return 65504.0f;
  if constexpr (std::same_as<T, e4m3>) return 448.0f;
  if constexpr (std::same_as<T, e5m2>) return 57344.0f;
  return 3.0e38f;
}

/// Largest magnitude that a codec can store: its tail's, and its parameters' if they are narrower.
template <class Codec>
[[nodiscard]] constexpr float largest_stored(Codec const& codec) noexcept {
  float const tail = largest<typename Codec::tail_type>();
  if constexpr (requires { codec.largest_value(); })
    return codec.largest_value() < tail ? codec.largest_value() : tail;
  else
    return tail;
}

/// Reads one kept token (merged or not, moved or not) as float rows. `scratch` holds 3 * head_dim
/// floats. Without a merger k or v may be null: not read.
template <class Plan, class Cache>
KVSLIM_HD inline float read_kept(Plan const& plan, Cache const& cache, workspace const& w,
                                 index_t r, index_t slot, float* k, float* v,
                                 float* scratch) noexcept {
  auto const& e = plan.extents();
  index_t const s = r / e.kv_heads, h = r % e.kv_heads, t = w.kept[r * plan.kept_capacity() + slot];
  float bias = cache.weight(s, t);
  if constexpr (Plan::has_merger) {
    index_t members = 1;
    auto const key = [&](index_t i, float* out) {
      ops::load_row(cache.k, s, h, i, e.head_dim, out);
    };
    auto const value = [&](index_t i, float* out) {
      ops::load_row(cache.v, s, h, i, e.head_dim, out);
    };
    plan.policy().template get<merger_tag>().merge(w.runs + r * e.tokens, t, cache.length(s),
                                                   e.head_dim, key, value, k, v, scratch, members);
    bias += std::log(static_cast<float>(members));
  } else {
    if (k != nullptr) ops::load_row(cache.k, s, h, t, e.head_dim, k);
    if (v != nullptr) ops::load_row(cache.v, s, h, t, e.head_dim, v);
  }
  if constexpr (Plan::has_mover)
    if (k != nullptr)
      plan.policy().template get<position_tag>().move(k, e.head_dim, cache.position(s, t),
                                                      static_cast<std::int32_t>(slot));
  return bias;
}

/// Encodes one row from its kept list. The storage was zeroed. The first row of a group writes the
/// group's blocks.
template <class Plan, class Cache, class Packed>
KVSLIM_HD inline void encode_row(Plan const& plan, Cache const& cache, workspace const& w,
                                 Packed const& packed, index_t r) noexcept {
  index_t const dim = plan.extents().head_dim, count = packed.row(r).count;
  float* const rows =
      w.staging +
      r * w.staging_floats;  // [block_rows][dim], then the other lane's row, merge and fit scratch
  float* const other = rows + plan.block_rows() * dim;
  if constexpr (Plan::keeps_positions()) {
    index_t const s = r / plan.extents().kv_heads;
    for (index_t t = 0; t < count; ++t)
      packed.stored_positions(r)[t] = cache.position(s, w.kept[r * plan.kept_capacity() + t]);
  }
  auto const lane = [&](auto const& at, bool keys) {
    auto const read = [&](index_t member, index_t t, float* mine) {
      index_t const from = group_of(at.codec).member_row(plan.extents(), r, member);
      float* const rest = Plan::has_merger ? other : nullptr;
      float const bias = keys ? read_kept(plan, cache, w, from, t, mine, rest, other + 2 * dim)
                              : read_kept(plan, cache, w, from, t, rest, mine, other + 2 * dim);
      if (keys && plan.keeps_log_weight()) packed.stored_weights(from)[t] = bias;
    };
    if (at.member == 0) {
      if constexpr (fitted_codec<std::remove_cvref_t<decltype(at.codec)>>)
        at.codec.fit(read, at.coded, at.run(0, at.coded, 0), at.state, other + 6 * dim);
      for (index_t t = 0; t < at.coded;) {
        index_t const take = at.in_block(t, at.coded);
        for (index_t m = 0; m < at.members(); ++m)
          for (index_t i = 0; i < take; ++i) read(m, t + i, rows + (m * take + i) * dim);
        at.encode(t, take, rows);
        t += take;
      }
    }
    for (index_t t = at.coded; t < count; ++t) {
      read(0, t, rows);
      at.store(t, rows);
    }
  };
  lane(packed.keys(r), true);
  lane(packed.values(r), false);
}

/// Whether a token with this flag is kept: 255 is padding, 0 was not selected.
template <class Plan>
[[nodiscard]] KVSLIM_HD constexpr bool stays(std::uint8_t flag) noexcept {
  return flag != 255 && (!Plan::has_selector || flag != 0);
}

/// Turns flags (and merge runs) into the ascending kept list of one row; returns how many.
template <class Plan, class Cache>
KVSLIM_HD inline index_t list_kept(Plan const& plan, Cache const& cache, workspace const& w,
                                   index_t r) noexcept {
  auto const& e = plan.extents();
  index_t const s = r / e.kv_heads, length = cache.length(s), capacity = plan.kept_capacity();
  std::uint8_t const* const flags = w.flags + r * e.tokens;
  std::int32_t* const kept = w.kept + r * capacity;
  index_t count = 0;
  if constexpr (Plan::has_merger) {
    index_t const h = r % e.kv_heads;
    std::int32_t* const runs = w.runs + r * e.tokens;
    float* const a = w.staging + r * w.staging_floats;
    auto const similar = [&](index_t t) {
      ops::load_row(cache.k, s, h, t, e.head_dim, a);
      ops::load_row(cache.k, s, h, t + 1, e.head_dim, a + e.head_dim);
      return ops::cosine(a, a + e.head_dim, e.head_dim);
    };
    static_cast<void>(plan.policy().template get<merger_tag>().runs(
        w.scores + r * e.tokens, flags, Plan::has_selector, length, runs, similar));
    for (index_t t = 0; t < length; ++t)
      if (runs[t] == t && count < capacity) kept[count++] = static_cast<std::int32_t>(t);
  } else {
    for (index_t t = 0; t < length; ++t)
      if (stays<Plan>(flags[t]) && count < capacity) kept[count++] = static_cast<std::int32_t>(t);
  }
  return count;
}

/// True if row r keeps the tokens that the first row of its group keeps.
template <class Plan, class Codec>
[[nodiscard]] bool keeps_as_leader(Plan const& plan, workspace const& w, index_t r,
                                   Codec const& codec) noexcept {
  index_t const leader = group_of(codec).first_row(plan.extents(), r),
                capacity = plan.kept_capacity();
  return w.counts[r] == w.counts[leader] &&
         std::memcmp(w.kept + r * capacity, w.kept + leader * capacity,
                     static_cast<std::size_t>(w.counts[r]) * sizeof(std::int32_t)) == 0;
}

/// Fills the row table from the counts: rows lie tightly, one after the other. Returns the bytes
/// used.
template <class Plan, class Cache, class Packed>
KVSLIM_HD inline index_t place_rows(Plan const& plan, Cache const& cache, workspace const& w,
                                    Packed const& packed) noexcept {
  index_t used = plan.table_bytes();
  for (index_t r = 0; r < plan.extents().rows(); ++r) {
    index_t const s = r / plan.extents().kv_heads, count = w.counts[r],
                  capacity = count + plan.options().append_tokens;
    packed_row entry{};
    entry.offset = used;
    entry.capacity = static_cast<std::int32_t>(capacity);
    entry.count = static_cast<std::int32_t>(count);
    entry.key_coded = static_cast<std::int32_t>(plan.key_codec().coded(count));
    entry.value_coded = static_cast<std::int32_t>(plan.value_codec().coded(count));
    index_t const length = cache.length(s);
    entry.next_position = Plan::has_mover ? static_cast<std::int32_t>(count)
                          : length == 0   ? 0
                                          : cache.position(s, length - 1) + 1;
    packed.row(r) = entry;
    used += plan.layout(capacity, r).bytes;
  }
  return used;
}

/// All checks of a compress call. Reads K and V once to refuse NaN, infinity and values that the
/// storage type cannot hold.
template <class Plan, class Cache, class Evidence, class Packed>
[[nodiscard]] status check_compress(Plan const& plan, Cache const& cache, Evidence const& evidence,
                                    Packed const& packed, std::byte const* scratch,
                                    std::size_t scratch_bytes) noexcept {
  if (auto const s = plan.check(); !s) return s;
  if (auto const s = check_cache(cache); !s) return s;
  if (cache.log_weight != nullptr && !plan.keeps_log_weight())
    return fail(errc::unsupported,
                "kvslim: the view has log weights, which only a merger with mass_bias stores");
  if (!(cache.extent == plan.extents()))
    return fail(errc::invalid_shape, "kvslim: the cache's extents are not those of the plan");
  auto const aligned = [](void const* p) {
    return reinterpret_cast<std::uintptr_t>(p) % alignment_bytes == 0;
  };
  if (packed.storage() == nullptr || !aligned(packed.storage()))
    return fail(errc::invalid_pointer,
                "kvslim: the packed storage is null or not aligned to 16 bytes");
  if (packed.size() < plan.packed_bytes())
    return fail(errc::buffer_too_small, "kvslim: the packed storage is below plan.packed_bytes()");
  if (plan.workspace_bytes() > 0 && (scratch == nullptr || !aligned(scratch)))
    return fail(errc::invalid_pointer, "kvslim: the workspace is null or not aligned to 16 bytes");
  if (scratch_bytes < plan.workspace_bytes())
    return fail(errc::buffer_too_small, "kvslim: the workspace is below plan.workspace_bytes()");
  if constexpr (Plan::has_scorer) {
    auto const& scorer = plan.policy().template get<scorer_tag>();
    if constexpr (requires { scorer.check(cache, evidence); })
      if (auto const s = scorer.check(cache, evidence); !s) return s;
    // Never called: nvcc would warn that what the concept asked of a scorer in an unnamed namespace
    // is declared and not used.
    using scorer_type = std::remove_cvref_t<decltype(scorer)>;
    if constexpr (token_scorer<scorer_type>)
      static_cast<void>(
          [](scorer_type const& p, archetype::token const& token) { return p.score(token); });
  }
  return {};
}

template <class Exec, class Plan, class Cache>
[[nodiscard]] status check_values(Exec const& exec, Plan const& plan, Cache const& cache,
                                  std::byte* scratch) {
  auto const e = plan.extents();
  for (index_t s = 0; s < e.sequences; ++s)
    if (index_t const n = cache.length(s);
        n > 0 && cache.position(s, n - 1) >= (index_t{1} << 31) - 1 - plan.options().append_tokens)
      return fail(errc::invalid_shape, "kvslim: positions plus append_tokens must stay below 2^31");
  // Rotation can move all of a pair's length into one channel.
  float const key_limit = largest_stored(plan.key_codec()) * (Plan::has_mover ? 0.70710677f : 1.0f);
  float const value_limit = largest_stored(plan.value_codec());
  auto* const good = reinterpret_cast<std::uint8_t*>(scratch);
  exec.for_each(e.rows(), [=](index_t r) {
    index_t const s = r / e.kv_heads, h = r % e.kv_heads;
    bool ok = true;
    for (index_t t = 0; t < cache.length(s) && ok; ++t)
      ok = !cache.is_valid(s, t) ||
           (ops::within(cache.k.row(s, h, t), cache.k.layout.channel, e.head_dim, key_limit) &&
            ops::within(cache.v.row(s, h, t), cache.v.layout.channel, e.head_dim, value_limit));
    good[r] = ok ? 1 : 0;
  });
  for (index_t r = 0; r < e.rows(); ++r)
    if (good[r] == 0)
      return fail(errc::non_finite,
                  "kvslim: K or V holds NaN, infinity or a value beyond the storage type's range");
  return {};
}

/// For mergers whose rows may outgrow their members: true if what they make of row r can be stored.
template <class Plan, class Cache>
[[nodiscard]] bool merged_fits(Plan const& plan, Cache const& cache, workspace const& w,
                               index_t r) noexcept {
  index_t const dim = plan.extents().head_dim;
  float* const k = w.staging + r * w.staging_floats;
  for (index_t i = 0; i < w.counts[r]; ++i) {
    static_cast<void>(read_kept(plan, cache, w, r, i, k, k + dim, k + 2 * dim));
    if (!ops::within(k, 1, dim, largest_stored(plan.key_codec())) ||
        !ops::within(k + dim, 1, dim, largest_stored(plan.value_codec())))
      return false;
  }
  return true;
}

/// Means the scores that `count` rows give token t into each of them, so that they select the same
/// tokens.
KVSLIM_HD inline void share_score(float* rows, index_t count, index_t tokens, index_t t) noexcept {
  float sum = 0.0f;
  for (index_t r = 0; r < count; ++r) sum += rows[r * tokens + t];
  for (index_t r = 0; r < count; ++r) rows[r * tokens + t] = sum / static_cast<float>(count);
}

template <class Policy>
[[nodiscard]] constexpr index_t protected_recent(Policy const& p) noexcept {
  if constexpr (Policy::template has<scorer_tag>) {
    if constexpr (requires { p.template get<scorer_tag>().protected_recent(); })
      return p.template get<scorer_tag>().protected_recent();
  }
  return 0;
}

}  // namespace detail

/// Scores every token of every row, without selecting: to reduce scores over layers that no single
/// view can hold, say. Shapes: out [rows, tokens]; scratch as plan.workspace_bytes(). Requires: a
/// pipeline with a scorer.
template <host_executor Exec, class Plan, class Cache, class Evidence>
status score(Exec const& exec, Plan const& plan, Cache const& cache, Evidence const& evidence,
             score_view out, float* scratch) {
  static_assert(Plan::has_scorer, "kvslim: this pipeline has no scorer");
  using scorer_type = typename Plan::policy_type::template stage_type<scorer_tag>;
  static_assert(
      detail::provides_all<Evidence, typename detail::needs_of<scorer_type>::type>::value,
      "kvslim: the scorer reads evidence that was not passed: add it to kvslim::evidence{...}");
  auto const& scorer = plan.policy().template get<scorer_tag>();
  if constexpr (token_scorer<scorer_type>) {
    auto const e = plan.extents();
    exec.for_each(e.rows(), [=](index_t r) {
      index_t const s = r / e.kv_heads, h = r % e.kv_heads;
      for (index_t t = 0; t < e.tokens; ++t)
        out.row(r)[t] = t < cache.length(s)
                            ? static_cast<float>(scorer.score(token_ref<Cache>(cache, s, h, t)))
                            : 0.0f;
    });
    return {};
  } else {
    return scorer.score(exec, cache, evidence, out, scratch);
  }
}

/// Runs the pipeline: score, select, merge, reposition, encode.
///
/// Shapes: cache and packed as planned; scratch of plan.workspace_bytes(), both aligned to
/// alignment_bytes. Memory must not overlap. Returns: invalid_shape, invalid_option,
/// invalid_pointer, buffer_too_small, non_finite, unsupported; then nothing of `packed` was
/// written. Cost: one checking pass over K and V, the scorer's, one read of what stays and one
/// write of its codes; no allocation, no synchronisation.
template <host_executor Exec, class Policy, class Cache, class Evidence>
status compress(Exec const& exec, compression_plan<Policy> const& plan, Cache const& cache,
                Evidence const& evidence, packed_cache<Policy, host_space> const& packed,
                std::byte* scratch, std::size_t scratch_bytes) {
  using plan_type = compression_plan<Policy>;
  static_assert(
      std::same_as<typename Cache::space, host_space>,
      "kvslim: a CPU executor was given a device view: pass kvslim::cuda{stream} or a host view");
  static_assert(
      detail::provides_all<
          Evidence,
          typename detail::needs_of<typename Policy::template stage_type<scorer_tag>>::type>::value,
      "kvslim: the scorer reads evidence that was not passed: add it to kvslim::evidence{...}");
  if (auto const s = detail::check_compress(plan, cache, evidence, packed, scratch, scratch_bytes);
      !s)
    return s;
  if (auto const s = detail::check_values(exec, plan, cache, scratch); !s) return s;
  detail::carver carve(scratch);
  auto const w = plan.carve(carve);
  auto const e = plan.extents();
  if constexpr (plan_type::has_scorer)
    if (auto const s = score(exec, plan, cache, evidence, {w.scores, e.tokens}, w.scratch); !s)
      return s;
  if constexpr (plan_type::has_selector) {
    auto const& selector = plan.policy().template get<selector_tag>();
    if constexpr (requires { selector.shared_sequences(); })
      if (index_t const n = selector.shared_sequences() * e.kv_heads; n > 0)
        exec.for_each(e.rows() / n, [=](index_t g) {
          for (index_t t = 0; t < e.tokens; ++t)
            detail::share_score(w.scores + g * n * e.tokens, n, e.tokens, t);
        });
  }
  index_t const recent = detail::protected_recent(plan.policy());
  exec.for_each(e.rows(), [=](index_t r) {
    index_t const s = r / e.kv_heads;
    std::uint8_t* const flags = w.flags + r * e.tokens;
    for (index_t t = 0; t < e.tokens; ++t)
      flags[t] = t < cache.length(s) && cache.is_valid(s, t) ? 0 : 255;
    if constexpr (plan_type::has_selector)
      plan.policy().template get<selector_tag>().select(
          {w.scores + r * e.tokens, w.keys + r * e.tokens, flags, cache.length(s), recent});
    w.counts[r] = detail::list_kept(plan, cache, w, r);
    if constexpr (plan_type::has_merger &&
                  requires { plan.policy().template get<merger_tag>().grows(); })
      if (plan.policy().template get<merger_tag>().grows() &&
          !detail::merged_fits(plan, cache, w, r))
        w.counts[r] = -1;
  });
  for (index_t r = 0; r < e.rows(); ++r)
    if (w.counts[r] < 0)
      return detail::fail(errc::non_finite,
                          "kvslim: a merged row is beyond the storage type's range");
  if constexpr (plan_type::has_mover) {
    for (index_t r = 0; r < e.rows(); ++r)
      if (w.counts[r] != w.counts[r - r % e.kv_heads])
        return detail::fail(
            errc::unsupported,
            "kvslim: rerotate needs the same number of kept tokens in every head of a sequence");
  }
  for (index_t r = 0; r < e.rows() && plan.grouped(); ++r)
    if (!detail::keeps_as_leader(plan, w, r, plan.key_codec()) ||
        !detail::keeps_as_leader(plan, w, r, plan.value_codec()))
      return detail::fail(errc::unsupported,
                          "kvslim: rows that share blocks must keep the same tokens");
  index_t const used = detail::place_rows(plan, cache, w, packed);
  packed_header header = detail::make_header(plan);
  header.used_bytes = used;
  std::memset(packed.storage(), 0, 128);
  std::memcpy(packed.storage(), &header, sizeof header);
  std::memset(packed.storage() + 128 + e.rows() * 32, 0,
              static_cast<std::size_t>(plan.table_bytes() - 128 - e.rows() * 32));
  exec.for_each(e.rows(), [=](index_t r) {
    auto const& entry = packed.row(r);
    std::memset(packed.storage() + entry.offset, 0,
                static_cast<std::size_t>(plan.layout(entry.capacity, r).bytes));
  });
  exec.for_each(e.rows(), [=](index_t r) { detail::encode_row(plan, cache, w, packed, r); });
  return {};
}

/// The same with a buffer that has data() and size(), such as std::vector<std::byte>.
template <class Exec, class Policy, class Cache, class Evidence, class Space, class Buffer>
requires requires(Buffer& b) {
  b.data();
  b.size();
}
status compress(Exec const& exec, compression_plan<Policy> const& plan, Cache const& cache,
                Evidence const& evidence, packed_cache<Policy, Space> const& packed,
                Buffer& scratch) {
  return compress(exec, plan, cache, evidence, packed, reinterpret_cast<std::byte*>(scratch.data()),
                  scratch.size());
}

KVSLIM_END_NAMESPACE
