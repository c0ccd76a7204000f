// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

#include "four_pipelines.hpp"

#include <kvslim/run/attend.cuh>

int main() {
  return attend_four([](auto const& plan) {
    kvslim::packed_cache const packed(plan, nullptr, 0, kvslim::cuda_space{});
    return kvslim::attend(kvslim::cuda{}, packed, kvslim::attend_request<kvslim::cuda_space>{});
  });
}
