// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

#include "four_pipelines.hpp"

int main() {
  return attend_four([](auto const& plan) {
    kvslim::packed_cache const packed(plan, nullptr, 0);
    return kvslim::attend(kvslim::cpu{}, packed, kvslim::attend_request<>{});
  });
}
