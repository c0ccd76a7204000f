// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Any scorer, asked about one chunk of the text at a time: every chunk keeps the same part of its
// tokens. What FINCH does to a long prompt ("Finch: Prompt-guided Key-Value Cache Compression for
// Large Language Models", TACL 2024, a00716), as a wrapper; NVIDIA/kvpress 0.5.5, chunk_press.py.
//
// A token's score is its place within its chunk, the best 0, then minus the part of the chunk that
// it completes, so that any quota hands its budget out evenly. Of chunks of c tokens a budget of
// the sum of max(1, int(c * kept)) is kvpress's set; at_least{.least = -kept, .recent = 0} needs no
// budget.
//
// Fidelity: kvpress hands a scorer the chunk's hidden states too, so that SnapKV's window is the
// end of each chunk; queries given here are those of the text's end: such scorers are refused.
// Fidelity: of equal scores the earlier token comes first; kvpress leaves it open.
// Fidelity: with chunks above 4096 tokens the last one, which is shorter, may get a token more or
// less: parts are floats.

#include <kvslim/ops/chunk_places.hpp>
#include <kvslim/ops/score_any.hpp>
#include <kvslim/score/shared.hpp>

KVSLIM_BEGIN_NAMESPACE

struct chunked_options {
  index_t size = 1024;  ///< tokens of a chunk, >= 1; the last one may be shorter (kvpress)
};

namespace detail {

template <class Needs>
inline constexpr bool reads_queries = false;
template <class... Needs>
inline constexpr bool reads_queries<needs_list<Needs...>> =
    ((std::same_as<Needs, needs_window_queries> || std::same_as<Needs, needs_raw_queries> ||
      std::same_as<Needs, needs_probes>) ||
     ...);

template <class Scorer>
inline constexpr bool asks_chunks = !Scorer::traits.observes && !is_shared<Scorer> &&
                                    !reads_queries<typename traits_of<Scorer>::needs>;

template <class Needs>
struct in_bulk;
template <class... Needs>
struct in_bulk<needs_list<Needs...>> {
  using type = scorer_traits<no_column, Needs...>;
};

}  // namespace detail

/// Any scorer that observes nothing and reads no queries, chunk by chunk:
/// `chunked{keydiff{}, {.size = 512}}`.
/// Requires: size >= 1 (invalid_option), and what the scorer requires. Cost: the scorer's for each
/// chunk, and a sort of it; workspace 12 bytes for every token of a chunk, and the scorer's.
/// Source: TACL 2024 (a00716).
template <scorer Scorer>
struct chunked {
  static_assert(detail::asks_chunks<Scorer>,
                "kvslim: chunked takes a bare scorer that observes nothing and reads no queries, "
                "which are of the text's end; share chunked itself");
  static constexpr typename detail::in_bulk<typename detail::traits_of<Scorer>::needs>::type traits{
      .bulk = true};

  Scorer scorer = {};
  chunked_options opt = {};

  [[nodiscard]] constexpr index_t protected_recent() const noexcept { return 0; }
  [[nodiscard]] constexpr index_t scratch_floats(extents const& e) const noexcept {
    detail::carver carve(nullptr);
    static_cast<void>(take(carve, part(e)));
    return detail::div_up(carve.used(), detail::max(1, e.rows()) * index_t{sizeof(float)});
  }
  [[nodiscard]] constexpr status check(extents const& e) const noexcept {
    if (opt.size < 1)
      return detail::fail(errc::invalid_option, "kvslim: chunked needs a size of at least 1");
    return ops::check_scorer(scorer, part(e));
  }
  template <class Text, class Evidence>
  [[nodiscard]] status check(Text const& text, Evidence const& evidence) const noexcept {
    return ops::check_scorer(scorer, text, evidence);
  }

  template <class Exec, class Text, class Evidence>
  [[nodiscard]] status score(Exec const& exec, Text const& text, Evidence const& evidence,
                             score_view out, float* scratch) const {
    auto const one = part(text.extents());
    detail::carver carve(static_cast<std::byte*>(static_cast<void*>(scratch)));
    auto const memory = take(carve, one);
    for (index_t first = 0; first < text.extents().tokens; first += one.tokens) {
      ops::text_part<Text> const chunk{text, one, first};
      if (auto const s =
              ops::score_any(exec, scorer, chunk, evidence, memory.scores, memory.scratch);
          !s)
        return s;
      if (auto const s = ops::chunk_places(exec, chunk, ops::recent_of(scorer), memory.scores,
                                           memory.keys, out);
          !s)
        return s;
    }
    return {};
  }

 private:
  struct space {
    std::uint64_t* keys;  // [rows, chunk]
    score_view scores;    // [rows, chunk]
    float* scratch;       // the scorer's
  };
  /// A chunk's extents.
  [[nodiscard]] constexpr extents part(extents e) const noexcept {
    e.tokens = detail::min(e.tokens, detail::max(1, opt.size));
    return e;
  }
  [[nodiscard]] constexpr space take(detail::carver& c, extents const& one) const noexcept {
    index_t const rows = one.rows();
    space x{};
    x.keys = c.take<std::uint64_t>(rows * one.tokens);
    x.scores = {c.take<float>(rows * one.tokens), one.tokens};
    x.scratch = c.take<float>(rows * ops::floats_of(scorer, one));
    return x;
  }
};
template <class Scorer>
chunked(Scorer) -> chunked<Scorer>;
template <class Scorer>
chunked(Scorer, chunked_options) -> chunked<Scorer>;

KVSLIM_END_NAMESPACE
