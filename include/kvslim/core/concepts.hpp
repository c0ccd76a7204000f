// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// What a policy must be. A policy says what it is (`using stage = ...`); only then is its shape
/// checked, and a failed check is one sentence. The archetypes provide exactly what each concept
/// promises and nothing more.

#include <concepts>
#include <kvslim/core/evidence.hpp>
#include <kvslim/core/token.hpp>
#include <kvslim/exec/cpu.hpp>
#include <type_traits>

KVSLIM_BEGIN_NAMESPACE

struct scorer_tag {};     ///< gives every token a number, higher means keep
struct selector_tag {};   ///< decides from the scores which tokens stay
struct merger_tag {};     ///< folds evicted tokens into kept ones
struct position_tag {};   ///< moves kept keys to new positions
struct quantizer_tag {};  ///< decides how K and V are stored

/// Scores of every row: row r = sequence * kv_heads + kv_head, `tokens` floats each.
struct score_view {
  float* data = nullptr;
  index_t tokens = 0;

  [[nodiscard]] KVSLIM_HD constexpr float* row(index_t r) const noexcept {
    return data + r * tokens;
  }
};

namespace archetype {

using plane = kvslim::plane<float const, strided, host_space>;
using cache = cache_view<plane>;
using token = token_ref<cache>;
using evidence = kvslim::evidence<window_queries<float>, token_scores<>>;

}  // namespace archetype

template <class P>
concept policy = std::is_trivially_copyable_v<P> && requires {
  typename P::stage;
};

namespace detail {

template <class P>
concept tagged_scorer = requires {
  typename P::stage;
}
&&std::same_as<typename P::stage, scorer_tag>;

}  // namespace detail

/// One function, `float score(auto const& token) const`: runs on every backend through the
/// library's loop.
template <class P>
concept token_scorer = policy<P> && detail::tagged_scorer<P> &&
    requires(P const p, archetype::token const token) {
  { p.score(token) } -> std::convertible_to<float>;
};

/// Composes ops over the whole cache: `status score(exec, cache, evidence, score_view, float*
/// scratch) const` with `scratch_floats(extents)` floats per row, and the check that runs before
/// anything is written, `status check(cache, evidence) const`. `protected_recent()` newest tokens
/// (its observation window) are kept by index.
template <class P>
concept bulk_scorer = policy<P> && detail::tagged_scorer<P> &&
    requires(P const p, archetype::cache const c, archetype::evidence const e, score_view out,
             float* scratch) {
  { p.score(cpu{}, c, e, out, scratch) } -> std::same_as<status>;
  { p.scratch_floats(c.extent) } -> std::same_as<index_t>;
  { p.check(c, e) } -> std::same_as<status>;
  { p.protected_recent() } -> std::convertible_to<index_t>;
};

template <class P>
concept scorer = token_scorer<P> || bulk_scorer<P>;

/// Where one row's selection is written: flags[t] is 0 evicted, 1 kept, 2 kept and protected.
struct selection_row {
  float const* scores = nullptr;
  std::uint64_t* keys = nullptr;  // scratch, one per token
  std::uint8_t* flags = nullptr;
  index_t tokens = 0;
  index_t protected_recent = 0;
};

/// `index_t capacity(tokens)`: most tokens a row keeps; `select(row)`; `check(extents)`.
template <class P>
concept selector = policy<P> && requires(P const p, extents const e, selection_row row, index_t n) {
  requires std::same_as<typename P::stage, selector_tag>;
  { p.capacity(n) } -> std::same_as<index_t>;
  { p.check(e) } -> std::same_as<status>;
  p.select(row);
};

/// `runs(...)` groups evicted tokens with a kept one; `merge(...)` makes the row that stands for a
/// run; a merger whose rows may be larger than their members also says `bool grows() const`, so
/// that what does not fit the storage type is refused.
template <class P>
concept merger = policy<P> && requires(P const p) {
  requires std::same_as<typename P::stage, merger_tag>;
  { p.check() } -> std::same_as<status>;
  { p.mass_bias() } -> std::same_as<bool>;
};

template <class P>
concept repositioner = policy<P> &&
    requires(P const p, float* key, extents const e, std::int32_t at) {
  requires std::same_as<typename P::stage, position_tag>;
  p.move(key, index_t{}, at, at);
  { p.check(e) } -> std::same_as<status>;
};

/// Names the codec of K and the codec of V; see core/codec.hpp for what a codec is.
template <class P>
concept quantizer = policy<P> && requires(P const p) {
  requires std::same_as<typename P::stage, quantizer_tag>;
  p.key_codec();
  p.value_codec();
  { P::scheme() } -> std::same_as<std::uint32_t>;
};

KVSLIM_END_NAMESPACE
