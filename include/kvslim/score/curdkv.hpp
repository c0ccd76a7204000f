// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// CurDKV keeps the tokens whose keys and values weigh most in the product of attention with V: rows
// of a CUR decomposition, their leverage estimated by squared norms. "Value-Guided KV Compression
// for LLMs via Approximated CUR Decomposition", arXiv:2509.15038, section 3. NVIDIA/kvpress 0.5.5,
// cur_press.py, CURPress; the authors' repository was not found.
//
// Fidelity: kvpress's option to project K and V onto 20 random directions first is not here.
// Fidelity: a window (or row) of zero vectors is 0 / 0 in kvpress, which its selection keeps first;
// here its tokens score 0.
// Fidelity: as in kvpress a short last window counts its few tokens for more.

#include <kvslim/ops/norm_shares.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Scores a token by the squared norms of its key and value within a window of the text.
/// Requires: sinks and window >= 0 (invalid_option). Cost: one pass over K and V.
/// Source: arXiv:2509.15038.
struct curdkv {
  static constexpr scorer_traits<> traits{.bulk = true};

  struct options {
    index_t sinks = 4;                  ///< first tokens: they score 1 (kvpress)
    index_t window = 16;                ///< tokens whose norms are compared; 0: all (kvpress)
    leverage kind = leverage::product;  ///< of K's and V's share (kvpress)
  };
  options opt = {};

  [[nodiscard]] constexpr index_t protected_recent() const noexcept { return 0; }
  [[nodiscard]] constexpr index_t scratch_floats(extents const& e) const noexcept {
    return ops::norm_share_floats(e);
  }
  [[nodiscard]] constexpr status check(extents const&) const noexcept {
    if (opt.sinks < 0 || opt.window < 0)
      return detail::fail(errc::invalid_option, "kvslim: curdkv needs sinks and window >= 0");
    return {};
  }
  template <class Text, class Evidence>
  [[nodiscard]] status check(Text const&, Evidence const&) const noexcept {
    return {};
  }

  template <class Exec, class Text, class Evidence>
  [[nodiscard]] status score(Exec const& exec, Text const& text, Evidence const&, score_view out,
                             float* scratch) const {
    return ops::norm_shares(exec, text, {opt.sinks, opt.window, opt.kind}, out, scratch);
  }
};
static_assert(scorer<curdkv>);

KVSLIM_END_NAMESPACE
