// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// ShadowKV's choice of chunks: the mean of a chunk's keys stands for it, its landmark; a query
/// reads the chunks whose landmarks take most of its attention, the chunks whose keys their
/// landmark serves worst, and the newest. "ShadowKV: KV Cache in Shadows for High-Throughput
/// Long-Context LLM Inference", arXiv:2410.21465, section 4. Authors' code: bytedance/ShadowKV
/// a21f5a9, models/kv_cache.py (ShadowKVCache.prefill_kv_cache, get_retrieval_position_ids).
/// Its keys in few directions are quant/shadowkv.hpp.
///
/// Fidelity: a query head's attention is a softmax over the landmarks, added up over query tokens;
///   heads of a KV head take the larger. Theirs divides logits by sqrt(128) whatever head_dim is;
///   here the cache's own scale does.
/// Fidelity: after the prompt both choose alike. Theirs attends to every decoded token from then
///   on and keeps the prompt's outliers; here chunks that leave the newest `local` have landmarks
///   too, and outliers are those of all chunks so far.
/// Fidelity: theirs keeps outlying chunks exact beside low-rank keys; here they are read as stored.
///   Landmarks are means of what is stored, and rounded to T.

#include <kvslim/core/concepts.hpp>

#include <cmath>

KVSLIM_BEGIN_NAMESPACE

/// Needs no evidence: queries come with select_pages(). Memory: head_dim numbers of T and four
/// bytes for every chunk of a KV head.
/// 32768 tokens of 8 KV heads of 128 in f16, 32 query heads: choosing and reading 928, 1440 and
/// 4512 tokens took 4.5, 5.2 and 10 ms, reading all 5.8 (one thread of a busy machine with AVX-512,
/// -O2). A span of 8 tokens costs attention as much as 32 that follow each other.
template <element T = bf16>
requires(sizeof(T) >= 2) struct landmarks {
  static constexpr index_traits<T> traits{
      .id = 0x20000u + detail::element_number<T>(), .grades = true, .shares = true};

  struct options {
    index_t budget = 2048;  ///< tokens that a query chooses of each KV head (authors' default)
    index_t page = 8;       ///< tokens of a chunk (authors' default)
    index_t local = 4;      ///< newest whole chunks, read in any case (authors' default)
    index_t outliers = 48;  ///< chunks whose landmark serves them worst (authors' default)
  } opt;

  [[nodiscard]] constexpr status check(extents const&) const noexcept {
    if (opt.page < 1 || opt.page > 4096)
      return detail::fail(errc::invalid_option, "kvslim: a landmark stands for 1 to 4096 tokens");
    if (opt.budget < 0 || opt.budget > extents::most_tokens || opt.local < 0 ||
        opt.local > extents::most_tokens || opt.outliers < 0 || opt.outliers > extents::most_tokens)
      return detail::fail(
          errc::invalid_option,
          "kvslim: landmarks need a budget, local chunks and outliers of 0 to 2^30");
    return {};
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t page_tokens() const noexcept { return opt.page; }
  /// Chunks that a query reads of a row of `slots`, at least one.
  [[nodiscard]] KVSLIM_HD constexpr index_t reads(index_t slots) const noexcept {
    return detail::min(detail::div_up(slots, opt.page),
                       detail::max(1, newest(slots) + opt.outliers + opt.budget / opt.page));
  }
  /// Of them, the newest: `local`, and what is no whole chunk yet.
  [[nodiscard]] KVSLIM_HD constexpr index_t newest(index_t slots) const noexcept {
    return opt.local + (slots % opt.page != 0 ? 1 : 0);
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t outliers() const noexcept { return opt.outliers; }

  KVSLIM_HD void summarize(auto const& channel, float* fields) const {
    double sum = 0.0;
    for (float x : channel) sum += static_cast<double>(x);
    fields[0] = static_cast<float>(sum / static_cast<double>(channel.size()));
  }
  /// How well a landmark serves a key: the cosine of their angle.
  [[nodiscard]] KVSLIM_HD float grade(index_t dim, auto const& key, auto const& field) const {
    double both = 0.0, of_key = 0.0, of_mark = 0.0;
    for (index_t d = 0; d < dim; ++d) {
      auto const x = static_cast<double>(key(d)), y = static_cast<double>(field(index_t{0}, d));
      both += x * y;
      of_key += x * x;
      of_mark += y * y;
    }
    constexpr double least = 1e-8;
    double const a = std::sqrt(of_key), b = std::sqrt(of_mark);
    return static_cast<float>(both / ((a > least ? a : least) * (b > least ? b : least)));
  }
};
static_assert(page_index<landmarks<>>);

KVSLIM_END_NAMESPACE
