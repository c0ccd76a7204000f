// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// What the CPU kernels of attention are handed beside numbers, and their tables.

#include <kvslim/core/codec.hpp>
#include <kvslim/isa/corrections.hpp>
#include <kvslim/isa/path.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// V in planar units as accumulate meets it: blocks of four tokens, tokens [first, first + n).
struct value_blocks {
  std::byte const* block;
  index_t block_bytes, code_bytes, dim, group, first, n;
};

/// K as dot meets it: codes in planar units of a run of 32 tokens with its parameters, per token or
/// per channel, and how many bytes further the next run's lie.
template <class Param>
struct key_blocks {
  std::uint8_t const* codes;
  Param const* scale;
  Param const* low;
  index_t apart = 0;

  void advance() noexcept {
    codes += apart;
    scale = array_at<Param>(static_cast<std::byte const*>(static_cast<void const*>(scale)) + apart);
    low = array_at<Param>(static_cast<std::byte const*>(static_cast<void const*>(low)) + apart);
  }
};

template <class Param>
key_blocks(std::uint8_t const*, Param const*, Param const*, index_t = 0) -> key_blocks<Param>;

/// Rows of which `kept` channels are stored behind a bit for each.
struct sparse_shape {
  static constexpr index_t most_dim = 1024, most_bytes = most_dim / 8 + 4 * most_dim;
  index_t block_bytes, mask_bytes, kept, dim;
};

/// Codes of one run of 32 tokens in planar units (codec/bit_parts.hpp), the values that they stand
/// for, repeated to sixteen, a length for every token; `stride` floats from one head's query or sum
/// to the next. V in blocks of four tokens: units of one block, `apart` bytes to the next.
struct level_codes {
  std::uint8_t const* codes;
  index_t units;  ///< of each part
  float const* values;
  f16 const* lengths;
  index_t stride;
  index_t apart = 0;
};

/// Channels of 32 tokens as floats, [2][channels][16].
struct token_tile {
  static constexpr index_t channels = 32, apart = channels * 16, floats = 2 * apart;
};

#if KVSLIM_DETAIL_KERNELS

/// For every set of eight channels, which of what is stored each of them takes.
struct expansion {
  std::uint8_t places[256][8] = {};
  constexpr expansion() noexcept {
    for (unsigned held = 0; held < 256; ++held)
      for (unsigned c = 0, before = 0; c < 8; before += held >> c & 1u, ++c)
        places[held][c] = static_cast<std::uint8_t>(before & 7u);
  }
};
inline constexpr expansion expanded;

/// What leaves sums of 32 tokens or channels as they are: factors, then what totals weigh.
struct unchanging {
  alignas(64) float terms[2 * run_tokens] = {};
  constexpr unchanging() noexcept {
    for (index_t i = 0; i < run_tokens; ++i) terms[i] = 1.0f;
  }
};
inline constexpr unchanging no_terms;

#endif

}  // namespace detail

KVSLIM_END_NAMESPACE
