// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// KVCrush keeps, beside the tokens with the best scores, a few that represent the others: tokens
// get binary codes of the heads that find them important, are ordered by the distance of their code
// from an anchor, and evenly spaced ones stay. "KVCrush: Key Value Cache Size-Reduction Using
// Similarity in Head-Behaviour", arXiv:2503.00022. Authors' code: openvinotoolkit/openvino.genai
// da1db86, cache/kvcrush.cpp; with a bit per head: a port in vllm-project/vllm ea297c9, kvcrush.py.
//
// Fidelity: only the paper's abstract was at hand; its codes with a bit per head are known from the
// port. The authors' code knows pages of scores summed over the heads of a layer: `shared{snapkv{},
// {.kv_heads = 8}, reduce::sum}`, `page`, and `code_heads = 1`.
// Fidelity: representatives are part of the quota, as in the port; the authors keep them on top.
// The port may exceed its budget by a page and looks only at what the first head already keeps, so
// that others keep tokens twice; here each head chooses among the pages that it lacks.
// Fidelity: the authors' random anchor is `code_anchor::given` with bits of one's own. Both leave
// the order of equal distances open; here it is that of the text.
// Fidelity: tokens behind the last whole page go, in the port they make a page with padding.

#include <kvslim/core/concepts.hpp>
#include <kvslim/ops/code_distance.hpp>
#include <kvslim/ops/representatives.hpp>
#include <kvslim/ops/select.hpp>

KVSLIM_BEGIN_NAMESPACE

/// A keep rule: most of a row's room to the best pages, the rest to representatives.
/// Requires: 0 <= ratio <= 1, page >= 1, code_heads of the view's, codes of at most 4096 bits
/// (invalid_option). A quota's `least` and `cover` are not looked at. Cost: two selections and a
/// few passes over scores; workspace about 18 bytes per token and 4 per token of a layer. Source:
/// arXiv:2503.00022.
struct kvcrush {
  static constexpr keep_traits traits{};

  struct options {
    double ratio = 0.25;     ///< of the unprotected room, for representatives (port)
    index_t page = 1;        ///< tokens that stay or go together (paper 1; OpenVINO its block size)
    index_t code_heads = 0;  ///< heads of a layer whose bits make the codes; 0: all
    code_anchor anchor = code_anchor::alternating;  ///< port's default
    spacing spaced = spacing::stride;               ///< authors; port: ends
    std::uint64_t bits = 0;                         ///< of a given anchor, the lowest first
  };
  options opt = {};

  [[nodiscard]] constexpr status check(extents const& e) const noexcept {
    if (!(opt.ratio >= 0.0 && opt.ratio <= 1.0) || opt.page < 1 || opt.page > most_bits ||
        opt.code_heads < 0 || opt.code_heads > e.kv_heads || heads_of(e) > most_bits / opt.page)
      return detail::fail(errc::invalid_option,
                          "kvslim: kvcrush needs a ratio in [0, 1], code_heads of the view's, and "
                          "page * heads in [1, 4096]");
    return {};
  }
  [[nodiscard]] constexpr index_t scratch_bytes(extents const& e) const noexcept {
    detail::carver carve(nullptr);
    static_cast<void>(space(e, carve));
    return carve.used();
  }

  template <class Exec, class Text>
  [[nodiscard]] status keep(Exec const& exec, Text const& text, score_view scores,
                            slice<quota const> quotas, fate* fates, std::byte* scratch) const {
    auto const& e = text.extents();
    detail::carver carve(scratch);
    auto const w = space(e, carve);
    ops::code_rule const rule{opt.anchor, opt.bits, heads_of(e)};
    ops::pages_text const pages{e, w.pages.counts};
    slice<quota const> const halves{w.pages.halves, e.rows()}, best{w.pages.quotas, e.rows()};
    status s = ops::make_open_pages(exec, text, scores, quotas, fates, w.pages);
    if (s) s = ops::keep_best(exec, text, scores, halves, w.keys, w.pages.marks);
    if (s) s = ops::code_distance(exec, w.pages, rule, w.anchor, w.distances);
    if (s)
      s = ops::keep_best(exec, pages, score_view{w.pages.sums, e.tokens}, best, w.keys,
                         w.pages.fates);
    if (s)
      s = ops::keep_representatives(exec, w.pages, w.distances, rule.length(w.pages), opt.spaced,
                                    w.keys);
    return s ? ops::keep_pages(exec, w.pages, fates) : s;
  }

 private:
  static constexpr index_t most_bits = 4096;

  struct memory {
    ops::open_pages pages;
    std::uint8_t* anchor;
    std::int32_t* distances;
    std::uint64_t* keys;
  };
  [[nodiscard]] constexpr index_t heads_of(extents const& e) const noexcept {
    return opt.code_heads == 0 ? e.kv_heads : opt.code_heads;
  }
  [[nodiscard]] constexpr memory space(extents const& e, detail::carver& carve) const noexcept {
    index_t const rows = e.rows(), all = rows * e.tokens;
    memory w{};
    w.keys = carve.take<std::uint64_t>(all);
    w.pages.split = {opt.page, opt.ratio};
    w.pages.extent = e;
    w.pages.ranks = carve.take<std::int32_t>(all);
    w.pages.counts = carve.take<std::int32_t>(rows);
    w.pages.representatives = carve.take<std::int32_t>(rows);
    w.pages.sums = carve.take<float>(all);
    w.pages.fates = carve.take<fate>(all);
    w.pages.quotas = carve.take<quota>(rows);
    w.pages.marks = carve.take<fate>(all);
    w.pages.halves = carve.take<quota>(rows);
    w.anchor = carve.take<std::uint8_t>(e.sequences * heads_of(e) * opt.page);
    w.distances = carve.take<std::int32_t>(e.sequences * e.tokens);
    return w;
  }
};
static_assert(keep_rule<kvcrush>);

KVSLIM_END_NAMESPACE
