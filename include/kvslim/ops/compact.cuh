// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/exec/cuda.cuh>
#include <kvslim/ops/compact.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

template <class Source, class Target>
struct compact_body {
  Source source;
  Target target;
  std::int32_t const* kept;
  index_t const* counts;
  index_t capacity;

  __device__ void operator()(index_t i) const {
    auto const& e = source.extent;
    index_t const r = i / e.head_dim, d = i % e.head_dim, s = r / e.kv_heads, h = r % e.kv_heads;
    for (index_t n = 0; n < counts[r]; ++n) {
      index_t const t = kept[r * capacity + n];
      target.k.at(s, h, n, d) = source.k.at(s, h, t, d);
      target.v.at(s, h, n, d) = source.v.at(s, h, t, d);
    }
  }
};

}  // namespace detail

namespace ops {

/// The CUDA side of compact: one thread per (row, channel), tokens in ascending order, so that in
/// place is allowed. `kept` and `counts` are device memory and are not checked.
template <class Source, class Target>
status compact(cuda exec, Source const& source, Target const& target, std::int32_t const* kept,
               index_t const* counts, index_t capacity) {
  static_assert(
      std::same_as<typename Source::space, cuda_space> &&
          std::same_as<typename Target::space, cuda_space>,
      "kvslim: a CUDA executor was given a host view: view device memory with kvslim::cuda_space");
  detail::compact_body<Source, Target> const body{source, target, kept, counts, capacity};
  return detail::launch_for_each(exec, source.extent.rows() * source.extent.head_dim, body);
}

}  // namespace ops

KVSLIM_END_NAMESPACE
