// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// A codec says how one half (K or V) of one KV head is stored. Tokens are grouped into blocks of
/// fixed bytes; the newest tokens wait in an exact tail until they may be coded. Attention reads
/// blocks directly. Stored caches are typed by their two codecs and by nothing else.

#include <kvslim/core/elements.hpp>
#include <kvslim/core/status.hpp>
#include <kvslim/core/view.hpp>
#include <kvslim/isa/digits.hpp>

#include <concepts>
#include <type_traits>

KVSLIM_BEGIN_NAMESPACE

/// What a warp does with a codec, in the `.cuh` files.
template <class Codec>
struct warp_codec;

/// Tokens that attention handles in one step; scores and weights of a step are
/// [q_heads][run_tokens] floats.
inline constexpr index_t run_tokens = 32;
/// Runs of so many tokens whose weights are made together.
inline constexpr index_t step_runs = 4;
/// Query heads handled in one step; larger groups are processed in pieces.
inline constexpr index_t run_heads = 8;

/// The number of a stored form, written into every stored cache. There is no default: a codec that
/// forgets it does not compile.
struct form_id {
  std::uint32_t value;
  KVSLIM_HD constexpr explicit form_id(std::uint32_t v) noexcept : value(v) {}
};

/// A codec written down: what a reader must agree on before it may read a byte.
struct form {
  std::uint32_t id = 0;
  std::uint32_t words[7] = {};
  friend constexpr bool operator==(form const&, form const&) = default;
};

/// Whether a codec's scores and sums are over the head's channels or in a space of its own, which
/// codec_sizes::own_dim coordinates span: a rotation, latents of a low rank. Then attention
/// prepares each query once a row and finishes each sum once, and the codec has
/// - prepare(q, at, own) (K): own[own_dim] from q[dim], so that own . coordinates = q . k;
/// - finish(sum, at, out) (V): out[dim] += what sum[own_dim] is in channels; may overwrite sum;
/// - coordinate(block, at, j): one coordinate of token at.first, as decode gives a channel;
/// - load(block, at, out): all channels of token at.first;
/// and its encode may overwrite the rows it is given.
enum class basis : std::uint8_t { channels, own };

/// Everything about a codec that is known at compile time: `static constexpr codec_traits traits`.
struct codec_traits {
  form_id form;
  basis space = basis::channels;
  bool whole_blocks = false;    ///< blocks are only written whole; otherwise any run of tokens
  bool rewrites = false;        ///< one token of a block may be coded again without its neighbours
  bool encodes_runs = false;    ///< encode takes several whole blocks at once, run_tokens in all
  bool encodes_stored = false;  ///< encode_stored reads rows as they lie in plain memory
  bool positions = false;       ///< reads site::positions, so they are stored
  bool grouped = false;         ///< rows of `row_group group() const` share blocks
  bool fitted = false;          ///< `fit` computes a state before the first block
  bool tabled = false;          ///< reads site::table, which the cache must bind
  bool tabled_fit = false;      ///< fit alone does: it must be bound only while the cache is filled
  bool shares_keys = false;     ///< a value codec that reads K's bytes and stores nothing
  bool long_runs = false;       ///< dot or accumulate takes step_runs runs at once, site::apart
  bool takes_off = false;       ///< take_off takes what a whole block stands for off rows
};

/// Every size of a codec for head_dim `dim` and at most `tokens` tokens, and what may be coded.
struct codec_sizes {
  index_t block_tokens = 1;
  index_t block_bytes = 0;
  index_t grown_block_bytes = 0;  ///< blocks coded after the fit; 0: as block_bytes. Reserved
  index_t keep_exact = 0;         ///< newest tokens that stay in the exact tail
  index_t settle_by = 1;          ///< the others are coded in multiples of this many
  index_t state_bytes = 0;        ///< of a fitted codec
  index_t fit_floats = 0;         ///< scratch of fit
  index_t own_dim = 0;            ///< coordinates of a token, where the basis is the codec's own

  /// Of n tokens, how many are in blocks.
  [[nodiscard]] KVSLIM_HD constexpr index_t coded(index_t n) const noexcept {
    index_t const free = n - keep_exact;
    return free <= 0 ? 0 : free - free % settle_by;
  }
  /// Most tokens that are in the tail once all that may be coded is.
  [[nodiscard]] KVSLIM_HD constexpr index_t tail() const noexcept {
    return keep_exact + settle_by - 1;
  }
};

/// Logical positions of consecutive tokens of a row: a stored list, or a first one that counts up.
struct run_positions {
  std::int32_t const* list = nullptr;
  std::int32_t first = 0;

  [[nodiscard]] KVSLIM_HD constexpr std::int32_t operator[](index_t i) const noexcept {
    return list != nullptr ? list[i] : first + static_cast<std::int32_t>(i);
  }
};

/// How closely attention computes. `tight`: as if in float. `fast`: below 5e-4 of relative L2,
/// where a stored form has kernels for it; the others stay tight. On CUDA those are the kernels of
/// eight heads on matrix units (run/README.md). README, "Promises", has the conditions of both.
enum class attend_precision : std::uint8_t { tight, fast };

/// The tokens that one call of a codec is about: [first, first + n) of a block, and what is known
/// of them.
struct site {
  index_t first = 0, n = 1, dim = 0;
  index_t token = 0;                 ///< place of the first one in its row
  index_t row = 0;                   ///< sequence * kv_heads + kv_head
  index_t member = 0;                ///< place in the row group
  run_positions positions = {};      ///< [n]; after eviction only where traits.positions
  std::byte const* state = nullptr;  ///< what fit() stored for the half, null without one
  void const* table = nullptr;       ///< what the cache binds for the codec (a basis, a codebook)
  std::byte const* next = nullptr;   ///< what is read after this; kernels fetch it early
  index_t next_bytes = 0;
  index_t held = 0;  ///< in fit: tokens of the row, those that stay in the exact tail too
  attend_precision precision = attend_precision::tight;  ///< of dot and accumulate
  index_t apart = 0;  ///< floats from the logits or weights of one run to those of the next
  detail::digit_rows* room = nullptr;  ///< [digit_room], where kernels may work; or null
  detail::digit_rows* kept = nullptr;  ///< what they make of queries that last; or null
  float const* lasting = nullptr;      ///< [lasting_heads, lasting_dim], as long as the row is read
  index_t lasting_heads = 0, lasting_dim = 0;
};

namespace detail {

template <class C>
inline constexpr bool has_group = requires(C const c) {
  { c.group() } -> std::same_as<row_group>;
};

/// Stands for `read` where only its type counts. A lambda would do, but nvcc then calls every
/// requirement unmet.
struct no_rows {
  KVSLIM_HD void operator()(index_t, index_t, float*) const noexcept {}
};
template <class C>
inline constexpr bool has_fit = requires(C const c, index_t i, site const at, std::byte* state,
                                         float* scratch) {
  c.fit(no_rows{}, i, at, state, scratch);
};

template <class C>
inline constexpr bool has_encode_stored = requires(C const c, f16 const* rows, site const at,
                                                   std::byte* block) {
  c.encode_stored(rows, at, block);
};

template <class C>
inline constexpr bool has_take_off = requires(C const c, std::byte const* block, site const at,
                                              float* rows) {
  c.take_off(block, at, rows);
};

/// Whether attention reads a codec's blocks in coordinates of its own.
template <class C>
inline constexpr bool in_own_basis = std::remove_cvref_t<C>::traits.space == basis::own;
template <class C>
inline constexpr bool has_prepare = requires(C const c, float const* q, site const at, float* own) {
  c.prepare(q, at, own);
};
template <class C>
inline constexpr bool has_finish = requires(C const c, float* sum, site const at, float* out) {
  c.finish(sum, at, out);
};
template <class C>
inline constexpr bool has_coordinates = requires(C const c, std::byte const* block, site const at,
                                                 index_t j, float* out) {
  { c.coordinate(block, at, j) } -> std::same_as<float>;
  c.load(block, at, out);
};

}  // namespace detail

/// What both kinds of codec promise. Blocks lie next to each other; dot and accumulate are handed
/// several in one call (at.n past the first one's end) if they hold fewer than run_tokens.
///
/// `rows` is [at.n, at.dim] floats ([members, at.n, at.dim] where rows share blocks); decode gives
/// one channel of token at.first. `check` runs before any other member: sizes may divide by
/// options.
template <class C>
concept codec = std::is_trivially_copyable_v<C> &&
    requires(C const c, C& out, form const& f, index_t i, site const at, float* rows,
             std::byte* block, std::byte const* stored) {
  requires std::same_as<decltype(C::traits), codec_traits const>;
  typename C::tail_type;                           // element type of the exact tail
  { c.check(i) } -> std::same_as<status>;          // head_dim and options fit
  { c.sizes(i, i) } -> std::same_as<codec_sizes>;  // of head_dim and tokens
  { c.limit() } -> std::same_as<float>;            // larger magnitudes are refused
  { c.written() } -> std::same_as<form>;           // id and options
  { C::read(f, out) } -> std::same_as<status>;     // the way back
  c.encode(rows, at, block);
  { c.decode(stored, at, i) } -> std::same_as<float>;  // block, token, channel
};

/// dot(block, at, q, heads, scores): scores[h][i] += q[h] . k[at.first + i]; q is [heads, dim], or
/// prepared [heads, own_dim].
template <class C>
concept key_codec = codec<C> &&
    requires(C const c, std::byte const* b, site const at, float const* q, float* out, index_t i) {
  c.dot(b, at, q, i, out);
};

/// accumulate(block, at, p, heads, out): out[h] += sum_i p[h][i] * v[at.first + i]; out is
/// [heads, dim], or to be finished [heads, own_dim].
template <class C>
concept value_codec = codec<C> &&
    requires(C const c, std::byte const* b, site const at, float const* p, float* out, index_t i) {
  c.accumulate(b, at, p, i, out);
};

namespace detail {

/// Traits and members must say the same: what is declared exists, what exists is declared.
template <class C>
struct check_codec {
  static_assert(!C::traits.grouped || has_group<C>,
                "kvslim: this codec says .grouped and has no `row_group group() const`");
  static_assert(C::traits.grouped || !has_group<C>,
                "kvslim: this codec has group() and does not say .grouped = true");
  static_assert(
      !C::traits.fitted || has_fit<C>,
      "kvslim: this codec says .fitted and has no `fit(read, tokens, at, state, scratch)`");
  static_assert(C::traits.fitted || !has_fit<C>,
                "kvslim: this codec has fit() and does not say .fitted = true");
  static_assert(C::traits.encodes_stored == has_encode_stored<C>,
                "kvslim: a codec says .encodes_stored = true if, and only if, it has "
                "`encode_stored(rows, at, block)`");
  static_assert(!(C::traits.encodes_stored && C::traits.grouped),
                "kvslim: rows that share blocks do not lie side by side: .encodes_stored is not "
                "for .grouped codecs");
  static_assert(C::traits.takes_off == has_take_off<C>,
                "kvslim: a codec says .takes_off = true if, and only if, it has "
                "`take_off(block, at, rows)`");
  static_assert(C::traits.fitted || !C::traits.tabled_fit,
                "kvslim: this codec says .tabled_fit and has no fit()");
  static_assert(!(C::traits.rewrites && C::traits.whole_blocks),
                "kvslim: a codec that writes whole blocks cannot rewrite single tokens");
  static_assert(
      !C::traits.shares_keys || requires(C const c) { c.key_dim; },
      "kvslim: a codec that says .shares_keys names the key_dim it reads from");
  static constexpr bool own = in_own_basis<C>;
  static_assert(!own || has_prepare<C> || !key_codec<C>,
                "kvslim: a key codec in a basis of its own has no `prepare(q, at, own)`");
  static_assert(!own || has_finish<C> || !value_codec<C>,
                "kvslim: a value codec in a basis of its own has no `finish(sum, at, out)`");
  static_assert(!own || has_coordinates<C>,
                "kvslim: a codec in a basis of its own has no `coordinate(block, at, j)` or no "
                "`load(block, at, out)`");
  static_assert(
      own || !(has_prepare<C> || has_finish<C>),
      "kvslim: this codec has prepare() or finish() and does not say .space = basis::own");
  static constexpr bool value = true;
};

template <class C>
[[nodiscard]] KVSLIM_HD constexpr row_group group_of(C const& codec) noexcept {
  if constexpr (C::traits.grouped)
    return codec.group();
  else
    return {};
}

/// Calls f(constant number of heads, first head) for groups of four heads, then for single ones:
/// sums of a fixed number of heads stay in registers.
template <class F>
KVSLIM_HD inline void by_heads(index_t heads, F const& f) noexcept {
  index_t h = 0;
  for (; h + 4 <= heads; h += 4) f(std::integral_constant<index_t, 4>{}, h);
  for (; h < heads; ++h) f(std::integral_constant<index_t, 1>{}, h);
}

}  // namespace detail

KVSLIM_END_NAMESPACE
