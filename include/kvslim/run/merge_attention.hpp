// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/run/attend.hpp>

KVSLIM_BEGIN_NAMESPACE

/// What attend() wrote for one segment: disjoint tokens of the same sequences.
template <class Space = host_space>
struct attention_part {
  rows<Space> out;             ///< as the request's out; f32 keeps the bound
  float const* lse = nullptr;  ///< natural logarithm
};

/// Combines attention over two disjoint sets of tokens: out <- both, lse natural. Rows of `dim`
/// floats.
KVSLIM_HD inline void merge_attention(float* out, float& lse, float const* other, float other_lse,
                                      index_t dim) noexcept {
  ops::softmax_state mine{lse, lse == -INFINITY ? 0.0 : 1.0};
  auto const f = mine.merge({other_lse, other_lse == -INFINITY ? 0.0 : 1.0});
  if (mine.total <= 0.0) return;
  auto const inverse = static_cast<float>(1.0 / mine.total);
  for (index_t d = 0; d < dim; ++d)
    out[d] = out[d] * (f.mine * inverse) + other[d] * (f.other * inverse);
  lse = mine.log_sum();
}

/// Merges segments of one sequence that were attended one by one (sinks and body, layers of tiers,
/// caches of different codecs) into the request's out and lse. The parts' sink logits must be null;
/// the request's are applied here.
///
/// Returns: invalid_pointer, invalid_shape; then nothing was written. Cost: one read of the parts.
template <host_executor Exec>
status finish(Exec const& exec, slice<attention_part<host_space> const> parts,
              attend_request<host_space> const& a) {
  auto const& o = a.out;
  if (parts.size < 1 || parts.data == nullptr || o.data == nullptr || a.lse == nullptr)
    return detail::fail(errc::invalid_pointer, "kvslim: finish was given a null pointer");
  for (auto const& part : parts) {
    if (part.out.data == nullptr || part.lse == nullptr)
      return detail::fail(errc::invalid_pointer, "kvslim: finish was given a null pointer");
    if (!part.out.has_shape(o.sequences, o.heads, o.tokens, o.head_dim))
      return detail::fail(errc::invalid_shape, "kvslim: finish needs parts of the output's shape");
  }
  exec.for_each(o.sequences * o.heads * o.tokens, [=](index_t i) {
    index_t const s = i / o.tokens / o.heads, h = i / o.tokens % o.heads, t = i % o.tokens;
    if (a.active != nullptr && a.active[s] == 0) return;
    float high = a.sink_logits != nullptr ? a.sink_logits[h] : -INFINITY;
    for (auto const& part : parts) high = part.lse[i] > high ? part.lse[i] : high;
    double total = a.sink_logits != nullptr && high > -INFINITY
                       ? std::exp(static_cast<double>(a.sink_logits[h] - high))
                       : 0.0;
    auto const mass = [&](attention_part<host_space> const& part) {
      return high == -INFINITY ? 0.0 : std::exp(static_cast<double>(part.lse[i] - high));
    };
    for (auto const& part : parts) total += mass(part);
    for (index_t d = 0; d < o.head_dim; ++d) {
      double sum = 0.0;
      for (auto const& part : parts)
        sum += mass(part) * static_cast<double>(part.out.at(s, h, t, d));
      o.put(s, h, t, d, total > 0.0 ? static_cast<float>(sum / total) : 0.0f);
    }
    float const lse =
        total > 0.0 ? static_cast<float>(static_cast<double>(high) + std::log(total)) : -INFINITY;
    a.lse[i] = a.base2 ? lse * 1.44269504f : lse;
  });
  return {};
}

KVSLIM_END_NAMESPACE
