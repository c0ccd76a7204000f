// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/config.hpp>

KVSLIM_BEGIN_NAMESPACE

/// What went wrong. Every entry point checks its arguments before it writes anything.
enum class errc : std::int32_t {
  ok = 0,
  invalid_shape,      ///< extents that disagree, are empty where they may not be, or overflow
  invalid_option,     ///< an option outside its stated range
  invalid_pointer,    ///< null or misaligned memory
  buffer_too_small,   ///< storage or workspace below what the plan asked for
  non_finite,         ///< NaN or infinity in K, V or queries
  capacity_exceeded,  ///< no room left for another token
  unsupported,        ///< a valid request that this stored form cannot serve
  corrupt,            ///< a serialized cache that is damaged
  foreign,            ///< a serialized cache of another format, version or scheme
  cuda,               ///< a CUDA call failed; `native` holds cudaError_t
};

/// Result of a call: a code, one static sentence, and the backend's own code if there is one. Never
/// allocates.
struct [[nodiscard]] status {
  errc code = errc::ok;
  char const* message = "ok";
  int native = 0;

  [[nodiscard]] KVSLIM_HD constexpr bool ok() const noexcept { return code == errc::ok; }
  [[nodiscard]] KVSLIM_HD constexpr explicit operator bool() const noexcept { return ok(); }
};

namespace detail {

[[nodiscard]] KVSLIM_HD constexpr status fail(errc code, char const* message) noexcept {
  return {code, message, 0};
}

}  // namespace detail

KVSLIM_END_NAMESPACE
