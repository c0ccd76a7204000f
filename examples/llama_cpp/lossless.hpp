// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// A lossless stage behind the container, where pkg-config finds libzstd: an ordinary frame of
// Zstandard with its checksum, which `zstd -d` reads too.

#include "llama_cpp/saved_sequence.hpp"

#ifdef KVSLIM_EXAMPLE_ZSTD
#include <zstd.h>
#endif

namespace example {

#ifdef KVSLIM_EXAMPLE_ZSTD

inline constexpr bool has_lossless = true;

inline std::vector<std::byte> squeeze(std::span<std::byte const> bytes) {
  std::vector<std::byte> out(ZSTD_compressBound(bytes.size()));
  auto* const c = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(c, ZSTD_c_compressionLevel, 3);
  ZSTD_CCtx_setParameter(c, ZSTD_c_checksumFlag, 1);
  auto const n = ZSTD_compress2(c, out.data(), out.size(), bytes.data(), bytes.size());
  ZSTD_freeCCtx(c);
  if (ZSTD_isError(n) != 0) throw saved_error(std::string("zstd: ") + ZSTD_getErrorName(n));
  out.resize(n);
  return out;
}
/// The way back. `most`: a frame that says it holds more is refused before memory is taken.
inline std::vector<std::byte> unsqueeze(std::span<std::byte const> bytes, std::size_t most) {
  auto const size = ZSTD_getFrameContentSize(bytes.data(), bytes.size());
  if (size == ZSTD_CONTENTSIZE_ERROR || size == ZSTD_CONTENTSIZE_UNKNOWN)
    throw saved_error("foreign: no frame of zstd that says how much it holds");
  if (size > most) throw saved_error("damaged: the frame of zstd holds too much");
  std::vector<std::byte> out(size);
  auto const n = ZSTD_decompress(out.data(), out.size(), bytes.data(), bytes.size());
  if (ZSTD_isError(n) != 0) throw saved_error(std::string("zstd: ") + ZSTD_getErrorName(n));
  if (n != out.size()) throw saved_error("damaged: the frame of zstd holds less than it says");
  return out;
}

#else

inline constexpr bool has_lossless = false;
inline std::vector<std::byte> squeeze(std::span<std::byte const>) {
  throw saved_error("built without zstd");
}
inline std::vector<std::byte> unsqueeze(std::span<std::byte const>, std::size_t) {
  throw saved_error("built without zstd");
}

#endif

}  // namespace example
