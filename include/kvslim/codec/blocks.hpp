// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Codecs whose blocks hold another codec's cut what they are asked by their blocks.

#include <kvslim/core/codec.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// Calls f(block, site, numbers) for what a site has of each block of `tokens` tokens: how many
/// blocks it lies behind the site's, its place in it, and how many floats its logits or weights lie
/// behind the site's. `most`: tokens that f takes at once, a multiple of 32. Where blocks are no
/// runs, or the site begins within one, no part crosses from one run of weights to the next.
template <class F>
KVSLIM_HD inline void by_blocks(site const& at, index_t tokens, index_t most, F const& f) {
  site part = at;
  bool const runs = tokens % run_tokens == 0 && at.first % run_tokens == 0;
  for (index_t done = 0; done < at.n; done += part.n) {
    index_t const first = at.first + done;
    part.first = first % tokens;
    part.n =
        min(min(at.n - done, tokens - part.first), runs ? most : run_tokens - done % run_tokens);
    part.token = at.token + done;
    part.next = at.next == nullptr ? nullptr : at.next + at.next_bytes * done / at.n;
    part.next_bytes = at.next_bytes * part.n / at.n;
    f(first / tokens, part, done / run_tokens * at.apart + done % run_tokens);
  }
}

/// Takes what a codec's whole block stands for off its values, rows of at.dim, number by number;
/// codecs that have take_off do so faster.
template <class Codec>
KVSLIM_HD inline void take_off_decoded(Codec const& codec, std::byte const* block, site at,
                                       index_t tokens, float* rows) noexcept {
  at.n = 1;
  for (at.first = 0; at.first < tokens; ++at.first)
    for (index_t d = 0; d < at.dim; ++d) rows[at.first * at.dim + d] -= codec.decode(block, at, d);
}

}  // namespace detail

KVSLIM_END_NAMESPACE
