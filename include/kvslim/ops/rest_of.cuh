// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/exec/cuda.cuh>
#include <kvslim/ops/rest_of.hpp>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// How many tokens each row's rest has, into begins[r + 1].
template <class Text>
struct count_rest_body {
  Text text;
  keep_set keep, rest;
  KVSLIM_HD void operator()(index_t r) const {
    rest.begins[r + 1] = each_of_rest(text, keep, r, list_nothing{});
  }
};
/// Their sums: one thread. Index: always 0.
struct begin_rest_body {
  index_t rows;
  keep_set rest;
  KVSLIM_HD void operator()(index_t) const {
    rest.begins[0] = 0;
    for (index_t r = 0; r < rows; ++r)
      rest.begins[r + 1] = kvslim::detail::min(rest.begins[r] + rest.begins[r + 1], rest.room);
  }
};
template <class Text>
struct list_rest_body {
  Text text;
  keep_set keep, rest;
  KVSLIM_HD void operator()(index_t r) const { each_of_rest(text, keep, r, list_rest{rest, r}); }
};

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

/// One thread a row, three kernels. Rows beyond the room are cut.
template <>
struct implementation<ops::rest_of_op, cuda> {
  template <class Text>
  static status run(cuda exec, Text const& text, keep_set const& keep, keep_set const& rest) {
    static_assert(std::same_as<typename Text::space, cuda_space>,
                  "kvslim: a CUDA executor was given a host view: view device memory with "
                  "kvslim::cuda_space");
    index_t const rows = text.extents().rows();
    if (auto const s =
            detail::launch_for_each(exec, rows, detail::count_rest_body<Text>{text, keep, rest});
        !s)
      return s;
    if (auto const s = detail::launch_for_each(exec, 1, detail::begin_rest_body{rows, rest}); !s)
      return s;
    return detail::launch_for_each(exec, rows, detail::list_rest_body<Text>{text, keep, rest});
  }
};

KVSLIM_END_NAMESPACE
