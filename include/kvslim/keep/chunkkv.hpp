// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// ChunkKV keeps whole chunks of neighbouring tokens, those with the best mean score, so that what
// belongs together stays together. "ChunkKV: Semantic-Preserving KV Cache Compression for Efficient
// Long-Context LLM Inference", arXiv:2502.00299. NVIDIA/kvpress 0.5.5, chunkkv_press.py.
//
// Fidelity: kvpress keeps one set for all heads of a layer, by the sum of their scores:
// `shared{snapkv{}, {.kv_heads = 8}, reduce::sum}`. With a batch it keeps the first sequence's
// chunks everywhere, which is not reproduced.
// Fidelity: kvpress keeps int(chunks * kept) chunks, at least one; here as many as the quota holds:
// `.budget = size * chunks`. A row whose room is below one chunk keeps its best tokens; kvpress
// does so where a row is shorter than a chunk.
// Fidelity: protected tokens are kept by themselves, out of the same budget, and do not count for
// their chunk; in kvpress they raise its mean.
// Fidelity: the paper's reuse of one layer's choice by the next is `shared` over both.

#include <kvslim/core/concepts.hpp>
#include <kvslim/ops/chunks.hpp>
#include <kvslim/ops/select.hpp>

KVSLIM_BEGIN_NAMESPACE

/// A keep rule: a row's room to whole chunks, best mean score first; what no chunk fills stays
/// empty. Chunks begin with the first token held.
/// Requires: size in [1, 2^30] (invalid_option). A quota's `least` and `cover` are not looked at.
/// Cost: one pass over scores and a selection among chunks. Source: arXiv:2502.00299.
struct chunkkv {
  static constexpr keep_traits traits{};

  struct options {
    index_t size = 20;  ///< tokens of a chunk (kvpress; the paper's best is 10 to 20)
  };
  options opt = {};

  [[nodiscard]] constexpr status check(extents const&) const noexcept {
    if (opt.size < 1 || opt.size > extents::most_tokens)
      return detail::fail(errc::invalid_option, "kvslim: chunkkv needs a size in [1, 2^30]");
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
    ops::chunks_text const chunks{w.chunks.extent, w.chunks.counts};
    score_view const means{w.chunks.scores, w.chunks.extent.tokens};
    slice<quota const> const whole{w.chunks.quotas, e.rows()}, rest{w.chunks.rest, e.rows()};
    status s = ops::make_chunks(exec, text, scores, quotas, fates, w.chunks);
    if (s) s = ops::keep_best(exec, chunks, means, whole, w.keys, w.chunks.fates);
    if (s) s = ops::keep_chunks(exec, text, w.chunks, fates);
    return s ? ops::keep_best(exec, text, scores, rest, w.keys, fates) : s;
  }

 private:
  struct memory {
    ops::chunks chunks;
    std::uint64_t* keys;
  };
  [[nodiscard]] constexpr memory space(extents const& e, detail::carver& carve) const noexcept {
    memory w{};
    w.chunks.size = opt.size;
    w.chunks.extent = e;
    w.chunks.extent.tokens = detail::div_up(e.tokens, opt.size);
    index_t const rows = e.rows(), all = rows * w.chunks.extent.tokens;
    w.keys = carve.take<std::uint64_t>(rows * e.tokens);
    w.chunks.counts = carve.take<std::int32_t>(rows);
    w.chunks.scores = carve.take<float>(all);
    w.chunks.fates = carve.take<fate>(all);
    w.chunks.quotas = carve.take<quota>(rows);
    w.chunks.rest = carve.take<quota>(rows);
    return w;
  }
};
static_assert(keep_rule<chunkkv>);

KVSLIM_END_NAMESPACE
