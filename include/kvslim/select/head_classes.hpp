// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Heads of two classes: retrieval heads keep everything, streaming heads the first and the newest
// tokens. "DuoAttention: Efficient Long-Context LLM Inference with Retrieval and Streaming Heads",
// arXiv:2410.10819. Authors' code: mit-han-lab/duo-attention fe93c31, duo_attn/utils.py and
// patch/static_kv_cache.py; NVIDIA/kvpress 0.5.5, duo_attention_press.py.
//
// Fidelity: no score decides; any cheap scorer will do in front: `streaming_llm{}`.
// Fidelity: a prompt that is compressed in one piece was attended to by all heads in full, as the
// authors' first chunk is. While decoding (`.evicts = true`) a streaming head gives up the token
// that leaves its window, after the step that appended a new one, as theirs.
// Fidelity: the authors split ties of their trained gates with random noise; `head_classes_by_gate`
// prefers the earlier head.
// Fidelity: kvpress cuts also where the prompt is shorter than sinks and recent together, and its
// slice is then empty: nothing is cut, as here.
// Fidelity: RazorAttention (arXiv:2407.15891) is these classes with
// `.sinks = 4, .recent = max(4000, tokens / 5), .between = 1`, and a compensation_token that holds
// what a streaming head drops.

#include <kvslim/core/concepts.hpp>

#include <cmath>

KVSLIM_BEGIN_NAMESPACE

/// All for some heads, sinks and a window for the others; ragged rows, so that nothing is stored
/// for what a streaming head does not keep.
/// Requires: a table [layers, kv_heads] in memory of the executor's, kv_heads of the view's. The
/// sequences of a view are layers, one request after the other. Returns: invalid_option,
/// invalid_pointer, invalid_shape. Cost: one read of the table. Source: arXiv:2410.10819.
template <class Space = host_space>
struct head_classes {
  static constexpr quota_traits traits{.rows_apart = true, .table = memory_of<Space>};

  struct options {
    std::uint8_t const* retrieval = nullptr;  ///< [layers, kv_heads]; not 0: keeps everything
    index_t layers = 1;
    index_t kv_heads = 1;          ///< of a layer
    index_t retrieval_heads = -1;  ///< at most so many; -1: not known, storage for all
    index_t sinks = 64;            ///< of a streaming head (authors' deployment)
    index_t recent = 256;          ///< likewise
    index_t between = 0;           ///< its best others; 1: room for a compensation_token
  };
  options opt = {};

  [[nodiscard]] constexpr status check(extents const& e) const noexcept {
    auto const among = [](index_t x, index_t low, index_t high) { return x >= low && x <= high; };
    if (!among(opt.layers, 1, extents::most_rows) ||
        !among(opt.kv_heads, 1, extents::most_rows / opt.layers) ||
        !among(opt.retrieval_heads, -1, rows()) || !among(opt.sinks, 0, extents::most_tokens) ||
        !among(opt.recent, 0, extents::most_tokens) ||
        !among(opt.between, 0, extents::most_tokens) || streaming() < 1)
      return detail::fail(errc::invalid_option,
                          "kvslim: head_classes needs layers and kv_heads >= 1, retrieval_heads "
                          "of them, and sinks, recent and between >= 0, not all 0");
    if (opt.retrieval == nullptr)
      return detail::fail(errc::invalid_pointer, "kvslim: head_classes was given no table");
    if (opt.kv_heads != e.kv_heads)
      return detail::fail(errc::invalid_shape,
                          "kvslim: head_classes' kv_heads must be those of the view");
    if constexpr (std::same_as<Space, host_space>) {
      index_t found = 0;
      for (index_t i = 0; i < rows(); ++i) found += opt.retrieval[i] != 0 ? 1 : 0;
      if (opt.retrieval_heads >= 0 && found > opt.retrieval_heads)
        return detail::fail(errc::invalid_option,
                            "kvslim: head_classes' table has more than retrieval_heads");
    }
    return {};
  }
  [[nodiscard]] KVSLIM_HD constexpr row_group group() const noexcept {
    return {opt.layers, opt.kv_heads};
  }
  /// A retrieval head has no bound, not even while it grows.
  [[nodiscard]] KVSLIM_HD constexpr index_t most(extents const&) const noexcept {
    return extents::most_tokens;
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t total(extents const& e) const noexcept {
    index_t const whole = opt.retrieval_heads < 0 ? rows() : opt.retrieval_heads;
    return whole * e.tokens + (rows() - whole) * detail::min(e.tokens, streaming());
  }
  KVSLIM_HD constexpr void allocate(slice<row_facts const> facts, slice<quota> out) const noexcept {
    for (index_t i = 0; i < out.size; ++i) {
      row_facts const& f = facts[i];
      bool const whole = opt.retrieval[f.row % rows()] != 0;
      out[i] = {.count = whole ? extents::most_tokens : streaming(),
                .sinks = opt.sinks,
                .recent = detail::max(opt.recent, f.recent)};
    }
  }

 private:
  [[nodiscard]] KVSLIM_HD constexpr index_t rows() const noexcept {
    return opt.layers * opt.kv_heads;
  }
  /// Tokens of a streaming head.
  [[nodiscard]] KVSLIM_HD constexpr index_t streaming() const noexcept {
    return opt.sinks + opt.recent + opt.between;
  }
};
static_assert(quota_policy<head_classes<>>);

/// The `streaming` heads with the lowest gates (or any importance) become streaming heads, the
/// later ones among equals: out[i] is 1 for the others. The authors' sparsity s is `streaming` =
/// floor(s * (heads - 1)) + 1 where s * (heads - 1) is no whole number and that number itself where
/// it is; kvpress's ratio is round(ratio * heads).
/// Returns: invalid_shape (sizes that differ), invalid_option (streaming out of range, a gate that
/// is no number); then nothing is written. Cost: a pass over all heads for each.
inline status head_classes_by_gate(slice<float const> gates, index_t streaming,
                                   slice<std::uint8_t> out) noexcept {
  if (gates.size != out.size)
    return detail::fail(errc::invalid_shape,
                        "kvslim: head_classes_by_gate needs one class for each gate");
  bool numbers = true;
  for (float const g : gates) numbers = numbers && g == g;
  if (streaming < 0 || streaming > gates.size || !numbers)
    return detail::fail(errc::invalid_option,
                        "kvslim: head_classes_by_gate needs gates that are numbers, and at most "
                        "as many streaming heads");
  for (index_t i = 0; i < gates.size; ++i) {
    index_t lower = 0;  // heads that stream rather than this one
    for (index_t j = 0; j < gates.size; ++j)
      lower += gates[j] < gates[i] || (gates[j] == gates[i] && j > i) ? 1 : 0;
    out[i] = lower < streaming ? 0 : 1;
  }
  return {};
}

KVSLIM_END_NAMESPACE
