// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/run/attend.cuh>
#include <kvslim/run/attend_segments.hpp>
#include <kvslim/run/merge_attention.cuh>

KVSLIM_BEGIN_NAMESPACE

/// attend_segments() on a stream, over at most 16 caches: a launch for each, and one that finishes.
/// Sink logits are not checked for NaN.
template <class... Key, class... Value>
requires(sizeof...(Key) > 0 && sizeof...(Key) <= detail::most_parts) status
    attend_segments(cuda exec, attend_request<cuda_space> const& a, workspace scratch,
                    packed_cache<Key, Value, cuda_space> const&... packed) {
  return detail::run_segments(exec, a, scratch, packed...);
}

KVSLIM_END_NAMESPACE
