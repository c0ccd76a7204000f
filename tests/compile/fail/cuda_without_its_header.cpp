// expect: kvslim: this op has no code for the executor
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

struct stream {
  using space = kvslim::cuda_space;
};
kvslim::status run(kvslim::archetype::text text, float* out) {
  return kvslim::ops::gather_scores(stream{}, text, out, {out, 1});
}
