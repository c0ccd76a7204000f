// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "boundary.hpp"

#include <kvslim/run/select.cuh>

namespace boundary {

inline kvslim::status select_all(plan const& p, view const& v, packed const& c, void* stream) {
  if (c.storage() == nullptr) return {kvslim::errc::buffer_too_small, "no storage", 0};
  kvslim::keep_set none{};
  return kvslim::select(kvslim::cuda{static_cast<cudaStream_t>(stream)}, p, v, kvslim::evidence<>{},
                        none, {});
}

template <class T>
char const* name_of() {
  return __PRETTY_FUNCTION__;
}

}  // namespace boundary
