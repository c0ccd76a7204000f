// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// Quest (arXiv:2406.10774): a query reads the pages whose keys could give it the largest logits.
/// Every page stores the least and the greatest number of each channel of its keys (section 3.2);
/// the sum over channels of the larger of q * least and q * greatest bounds every logit of the page
/// from above. Authors' code: mit-han-lab/Quest 01c1623, evaluation/quest_attention.py and the
/// kernels behind quest/utils/controller.py.
///
/// Fidelity: the kernels always read the newest page and rank the others; the evaluation code ranks
/// all and reads at least three pages: `rule`. The authors choose per query head (the kernels know
/// one head per KV head); here query heads that share a KV head share its pages, chosen by the
/// largest of their bounds, which is the authors' rule where there is one. Bounds of quantized keys
/// are over what is stored. Least and greatest are rounded outwards where T is narrower than the
/// keys. The first two layers attend to everything in the authors' code: give them no index.

#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

enum class quest_rule : std::uint8_t { kernel, evaluation };

namespace detail {

/// The T next to x in one direction, x itself where T holds it. `sign`: -1 downwards, 1 upwards.
template <element T>
requires(sizeof(T) >= 2) [[nodiscard]] KVSLIM_HD
    inline float round_outwards(float x, float sign) noexcept {
  if constexpr (std::same_as<T, float>) {
    return x;
  } else {
    auto nearest = from_float<T>(x);
    if ((to_float(nearest) - x) * sign >= 0.0f) return to_float(nearest);
    // Magnitudes of a sign are ordered as their bits are; zero has a neighbour on either side.
    bool const negative = x < 0.0f, grows = negative == (sign < 0.0f);
    constexpr unsigned sign_bit = 0x8000u;
    unsigned bits = nearest.bits & (sign_bit - 1);
    bits = grows ? bits + 1 : bits - 1;
    nearest.bits = static_cast<std::uint16_t>(bits | (negative ? sign_bit : 0u));
    return to_float(nearest);
  }
}

}  // namespace detail

/// Needs no evidence: queries come with select_pages(). Memory: 2 * head_dim numbers of T for every
/// page of a KV head.
template <element T = f16>
requires(sizeof(T) >= 2) struct quest {
  static constexpr index_traits<T> traits{.id = 0x10000u + detail::element_number<T>(),
                                          .fields = 2};

  struct options {
    index_t budget = 1024;  ///< tokens that a query reads of each KV head (paper: 512 to 4096)
    index_t page = 16;      ///< tokens of a page (authors' default)
    quest_rule rule = quest_rule::kernel;
  } opt;

  [[nodiscard]] constexpr status check(extents const&) const noexcept {
    if (opt.page < 1 || opt.page > 4096)
      return detail::fail(errc::invalid_option, "kvslim: quest's page is 1 to 4096 tokens");
    if (opt.budget < 0 || opt.budget > extents::most_tokens)
      return detail::fail(errc::invalid_option, "kvslim: quest's budget is 0 to 2^30 tokens");
    return {};
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t page_tokens() const noexcept { return opt.page; }
  /// Pages that a query reads of a row of `slots`.
  [[nodiscard]] KVSLIM_HD constexpr index_t reads(index_t slots) const noexcept {
    index_t const all = detail::div_up(slots, opt.page);
    if (opt.rule == quest_rule::kernel)
      return detail::min(all, detail::max(1, opt.budget / opt.page));
    return detail::min(all, detail::max(3, detail::min(slots, opt.budget) / opt.page));
  }
  /// Of them, the newest that are read whatever their bound.
  [[nodiscard]] KVSLIM_HD constexpr index_t newest(index_t) const noexcept {
    return opt.rule == quest_rule::kernel ? 1 : 0;
  }
  KVSLIM_HD void summarize(auto const& channel, float* fields) const {
    float least = channel[0], greatest = channel[0];
    for (float x : channel) {
      least = x < least ? x : least;
      greatest = x > greatest ? x : greatest;
    }
    fields[0] = detail::round_outwards<T>(least, -1.0f);
    fields[1] = detail::round_outwards<T>(greatest, 1.0f);
  }
  [[nodiscard]] KVSLIM_HD float term(float q, float const* fields) const {
    return q > 0.0f ? q * fields[1] : q * fields[0];
  }
};
static_assert(page_index<quest<>>);

KVSLIM_END_NAMESPACE
