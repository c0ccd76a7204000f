// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// What a policy must be. A policy declares what it is in one required `static constexpr`
/// aggregate, `traits`; only then is its shape checked, in both directions, and a failed check is
/// one sentence. Nothing is switched on because a member happens to exist.

#include <kvslim/core/codec.hpp>
#include <kvslim/core/evidence.hpp>
#include <kvslim/core/keep_set.hpp>
#include <kvslim/core/token.hpp>
#include <kvslim/exec/cpu.hpp>

#include <concepts>
#include <type_traits>

KVSLIM_BEGIN_NAMESPACE

struct scorer_tag {};     ///< gives every token a number, higher means keep
struct quota_tag {};      ///< decides how many each row keeps
struct keep_tag {};       ///< decides which, from scores and quotas (default: the best)
struct merger_tag {};     ///< folds evicted tokens into kept ones
struct position_tag {};   ///< moves kept keys to new positions
struct quantizer_tag {};  ///< decides how K and V are stored
struct index_tag {};      ///< summarises pages, so that a query reads only some of them

/// A scorer reads `Needs` (evidence kinds) and remembers `Column` of every token.
template <class Column = no_column, class... Needs>
struct scorer_traits {
  using stage = scorer_tag;
  using column = Column;
  using needs = needs_list<Needs...>;
  static_assert(std::is_trivially_copyable_v<Column> && detail::column_bytes<Column> % 4 == 0 &&
                    detail::column_bytes<Column> <= detail::most_column_bytes,
                "kvslim: a column is a trivially copyable record of at most eight 4-byte words");

  bool bulk = false;            ///< composes ops over the whole cache instead of score(token)
  bool observes = false;        ///< born(place) and observe(column, mass, place) fill the column
  reduce heads = reduce::mean;  ///< how query heads' masses become the KV head's, for observe
  bool gates = false;           ///< doubt(token) and gate() say which tokens may go at all
  bool states = false;          ///< writes score_view::statistics of every row, with .bulk
};

/// Memory that a policy reads beside its options.
enum class table_memory : std::uint8_t { none, host, device };

template <class Space>
inline constexpr table_memory memory_of =
    std::same_as<Space, host_space> ? table_memory::host : table_memory::device;

struct quota_traits {
  using stage = quota_tag;
  bool contests = false;    ///< open(extents, recent) asks for a contest before allocate
  bool rows_apart = false;  ///< a row gets the same alone: its group only sizes storage
  bool statistics = false;  ///< reads the statistics that a scorer states of its rows
  table_memory table = table_memory::none;
};

struct keep_traits {
  using stage = keep_tag;
};

struct merger_traits {
  using stage = merger_tag;
  bool assigns = false;  ///< assign() names each evicted token's target; otherwise runs are folded
  /// Not 0: assign() is given `row_bytes()` bytes of every row, which stay with the row, stored
  /// under this number; from 0x80000000 up it is yours.
  std::uint32_t memory = 0;
};

struct position_traits {
  using stage = position_tag;
};

struct quantizer_traits {
  using stage = quantizer_tag;
};

/// An index stores `fields` numbers of type T for every channel of a page's keys.
template <element T = f16>
struct index_traits {
  using stage = index_tag;
  using element = T;

  std::uint32_t id = 0;  ///< stored with the pages; from 0x80000000 up it is yours
  index_t fields = 1;    ///< 1 to 4
  bool grades = false;   ///< pages have a grade; the `outliers()` lowest are read in any case
  bool shares = false;  ///< pages have one field and are scored as keys are, by a softmax of logits
};

/// One channel of a page's keys: `for (float x : channel)`.
template <class Read>
struct page_channel {
  Read read;
  index_t count;

  struct iterator {
    page_channel const* of;
    index_t i;
    KVSLIM_HD float operator*() const noexcept { return (*of)[i]; }
    KVSLIM_HD iterator& operator++() noexcept {
      ++i;
      return *this;
    }
    KVSLIM_HD bool operator!=(iterator const& other) const noexcept { return i != other.i; }
  };
  [[nodiscard]] KVSLIM_HD index_t size() const noexcept { return count; }
  [[nodiscard]] KVSLIM_HD float operator[](index_t i) const noexcept { return read(i); }
  [[nodiscard]] KVSLIM_HD iterator begin() const noexcept { return {this, 0}; }
  [[nodiscard]] KVSLIM_HD iterator end() const noexcept { return {this, count}; }
};

namespace archetype {

struct read_channel {
  KVSLIM_HD float operator()(index_t) const noexcept { return 0.0f; }
};
struct read_field {
  KVSLIM_HD float operator()(index_t, index_t) const noexcept { return 0.0f; }
};

// Exactly what the concepts promise and nothing more: every shipped policy is instantiated with
// them.
using plane = kvslim::plane<float const, strided, host_space>;
using cache = cache_view<plane>;
using text = kvslim::text<cache>;
template <class Column = no_column>
using token = token_ref<text, Column>;
using evidence = kvslim::evidence<window_queries<>, token_scores<>, query_filters<>, raw_queries<>,
                                  query_statistics<>, probes<>, output_projection<>,
                                  hidden_states<>, gate_weights<>>;

}  // namespace archetype

namespace detail {

template <class P>
concept has_traits = requires {
  typename std::remove_cvref_t<decltype(P::traits)>::stage;
};

struct no_stage {};

template <class P>
struct stage_of {
  using type = no_stage;
};
template <has_traits P>
struct stage_of<P> {
  using type = typename std::remove_cvref_t<decltype(P::traits)>::stage;
};

template <class P, class Tag>
concept tagged = has_traits<P> && std::same_as<typename stage_of<P>::type, Tag>;

template <class P>
using traits_of = std::remove_cvref_t<decltype(P::traits)>;

template <class P>
using column_of = typename traits_of<P>::column;

template <class P>
using index_element = typename traits_of<P>::element;

template <class P>
concept has_token_score = requires(P const p, archetype::token<column_of<P>> const token) {
  { p.score(token) } -> std::convertible_to<float>;
};
template <class P>
concept has_doubt = requires(P const p, archetype::token<column_of<P>> const token) {
  { p.doubt(token) } -> std::convertible_to<float>;
  { p.gate() } -> std::same_as<kvslim::gate>;
};
template <class P>
concept has_bulk_score = requires(P const p, archetype::text const t, archetype::evidence const e,
                                  score_view out, float* scratch) {
  { p.score(cpu{}, t, e, out, scratch) } -> std::same_as<status>;
  { p.scratch_floats(t.extents()) } -> std::same_as<index_t>;
  { p.check(t, e) } -> std::same_as<status>;
  { p.check(t.extents()) } -> std::same_as<status>;
  { p.protected_recent() } -> std::same_as<index_t>;
};
template <class P>
concept has_observe = requires(P const p, column_of<P>& column, place const& at) {
  { p.born(at) } -> std::same_as<column_of<P>>;
  p.observe(column, 0.0f, at);
};

template <class P>
concept has_row_bytes = requires(P const p) {
  { p.row_bytes() } -> std::same_as<index_t>;
};
template <class P>
concept has_assign = requires(P const p, archetype::text const t, score_view scores,
                              fate const* fates, folding const& out, float* scratch) {
  { p.assign(cpu{}, t, scores, fates, out, scratch) } -> std::same_as<status>;
};

}  // namespace detail

template <class P>
concept policy = std::is_trivially_copyable_v<P> && detail::has_traits<P>;

/// One function, `float score(auto const& token) const`: runs on every backend through the
/// library's loop. With `.observes`, `token.column()` is what `Column born(place const&) const` and
/// `void observe(Column&, float mass, place const&) const` made of it.
template <class P>
concept token_scorer =
    policy<P> && detail::tagged<P, scorer_tag> && !P::traits.bulk && detail::has_token_score<P>;

/// Composes ops over the whole cache: `status score(exec, text, evidence, score_view, float*
/// scratch) const` with `scratch_floats(extents)` floats per row; `check(extents)` for options
/// alone and `check(text, evidence)` with data, both before anything is written.
/// `protected_recent()` newest tokens (its observation window) are kept.
template <class P>
concept bulk_scorer =
    policy<P> && detail::tagged<P, scorer_tag> && P::traits.bulk&& detail::has_bulk_score<P>;

template <class P>
concept scorer = token_scorer<P> || bulk_scorer<P>;

/// How many tokens each row keeps. `group()` rows are given out together by one call of
/// `allocate(facts, quotas)`, one sequential thread on either backend. `most(extents)` bounds one
/// row, `total(extents)` a group: what allocate hands out beyond it is cut, last row first.
template <class P>
concept quota_policy = policy<P> && detail::tagged<P, quota_tag> &&
    requires(P const p, extents const& e, slice<row_facts const> facts, slice<quota> out) {
  { p.check(e) } -> std::same_as<status>;
  { p.group() } -> std::same_as<row_group>;
  { p.most(e) } -> std::same_as<index_t>;
  { p.total(e) } -> std::same_as<index_t>;
  p.allocate(facts, out);
};

/// Which tokens stay: `status keep(exec, text, scores, quotas, fates, scratch)` turns one fate per
/// (row, rank) into kept or evicted; protected ones are `sure` on entry, the others evicted. At
/// most quotas[row].count stay. `scratch_bytes(extents)` in all.
template <class P>
concept keep_rule = policy<P> && detail::tagged<P, keep_tag> &&
    requires(P const p, archetype::text const t, score_view scores, slice<quota const> quotas,
             fate* fates, std::byte* scratch) {
  { p.check(t.extents()) } -> std::same_as<status>;
  { p.scratch_bytes(t.extents()) } -> std::same_as<index_t>;
  { p.keep(cpu{}, t, scores, quotas, fates, scratch) } -> std::same_as<status>;
};

/// Folds evicted tokens into kept ones. `joins()` says which neighbours form a run (ops/fold.hpp),
/// `weigh(member)` how much each counts in the row that stands for it, with `fact(member)` summed
/// over the run before. `mass_bias()`: the run's mass is stored as a logit bias; `grows()`: merged
/// values are multiplied by the number of members, so that what does not fit the storage type is
/// refused.
template <class P>
concept run_merger = policy<P> && detail::tagged<P, merger_tag> && !P::traits.assigns &&
                     requires(P const p, fold_member const& m) {
  { p.check() } -> std::same_as<status>;
  { p.mass_bias() } -> std::same_as<bool>;
  { p.grows() } -> std::same_as<bool>;
  p.joins();
  { p.fact(m) } -> std::same_as<float>;
  { p.weigh(m) } -> std::same_as<fold_weights>;
};

/// Folds evicted tokens into kept ones anywhere in their row: `assign(exec, text, scores, fates,
/// folding, scratch)` composes ops (ops/assign.hpp) that name every evicted token's target and a
/// strength, with `scratch_floats(extents)` floats per row; `share(strength)` says what it gives. A
/// token folds into its target and, with a `span()` above one, the kept tokens after it. Where
/// `folds_keys()` is false keys stay bit for bit. With `.memory`, `row_bytes()` (a multiple of 4;
/// 0: none) of every row are its own from one recompress() to the next.
template <class P>
concept assigning = policy<P> && detail::tagged<P, merger_tag> &&
                    P::traits.assigns&& detail::has_assign<P>&& requires(P const p,
                                                                         extents const& e) {
  { p.check() } -> std::same_as<status>;
  { p.mass_bias() } -> std::same_as<bool>;
  { p.grows() } -> std::same_as<bool>;
  { p.folds_keys() } -> std::same_as<bool>;
  { p.span() } -> std::same_as<index_t>;
  { p.scratch_floats(e) } -> std::same_as<index_t>;
  { p.share(0.0f) } -> std::same_as<fold_share>;
};

template <class P>
concept merger = run_merger<P> || assigning<P>;

template <class P>
concept repositioner = policy<P> && detail::tagged<P, position_tag> &&
    requires(P const p, float* key, extents const e, std::int32_t at) {
  p.move(key, index_t{}, at, at);
  { p.check(e) } -> std::same_as<status>;
  { p.fingerprint() } -> std::same_as<std::uint64_t>;
};

/// Metadata of pages of `page_tokens()` slots, by which a query chooses the pages it reads.
/// `summarize(channel, fields)` makes the numbers of one channel; a page's score is the sum of
/// `term(q, fields)` over channels or, with `.shares`, the largest that a query head gives it of
/// its softmax of q . field over all pages. Of n slots' pages, `reads(n)` are read, the newest
/// `newest(n)` of them in any case; reads(n) never falls, but where n fills the last page. With
/// `.grades`, a page's grade is the least `grade(dim, key, field)` of its keys, where key(d) is a
/// channel and field(f, d) what is stored of the page.
template <class P>
concept page_index = policy<P> && detail::tagged<P, index_tag> &&
    requires(P const p, extents const& e, page_channel<archetype::read_channel> const& channel,
             float* fields) {
  { p.check(e) } -> std::same_as<status>;
  { p.page_tokens() } -> std::same_as<index_t>;
  { p.reads(index_t{}) } -> std::same_as<index_t>;
  { p.newest(index_t{}) } -> std::same_as<index_t>;
  p.summarize(channel, fields);
  requires P::traits.shares || requires {
    { p.term(0.0f, static_cast<float const*>(fields)) } -> std::same_as<float>;
  };
  requires !P::traits.grades || requires {
    { p.outliers() } -> std::same_as<index_t>;
    {
      p.grade(index_t{}, archetype::read_channel{}, archetype::read_field{})
      } -> std::same_as<float>;
  };
};

/// Names the codec of K and the codec of V; see core/codec.hpp for what a codec is.
template <class P>
concept quantizer = policy<P> && detail::tagged<P, quantizer_tag> && requires(P const p) {
  p.key_codec();
  p.value_codec();
};

KVSLIM_END_NAMESPACE
