// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/exec/cuda.cuh>
#include <kvslim/ops/pair_in_chunks.hpp>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// One thread a chunk.
template <class Text>
struct pair_in_chunks_body {
  Text text;
  fate const* fates;
  chunk_rule rule;
  folding out;
  index_t chunks;
  __device__ void operator()(index_t i) const {
    ops::pair_chunk(text, fates, rule, out, i / chunks, i % chunks);
  }
};

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

template <>
struct implementation<ops::pair_in_chunks_op, cuda> {
  template <class Text>
  static status run(cuda exec, Text const& text, fate const* fates, chunk_rule const& rule,
                    folding const& out) {
    auto const& e = text.extents();
    index_t const chunks = ops::chunks_of(e, rule);
    return detail::launch_for_each(
        exec, e.rows() * chunks, detail::pair_in_chunks_body<Text>{text, fates, rule, out, chunks});
  }
};

KVSLIM_END_NAMESPACE
