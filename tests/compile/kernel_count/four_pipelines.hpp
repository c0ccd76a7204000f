// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Four pipelines that store what they keep as kivi<4>: their caches are of one type.

#include <kvslim/kvslim.hpp>

template <class Attend>
int attend_four(Attend const& attend) {
  using namespace kvslim;
  extents const e{1, 2, 256, 64};
  top_k const keep{{.budget = 128}};
  int failed = 0;
  auto const one = [&](auto const& policy) { failed += attend(make_plan(policy, e)).ok() ? 0 : 1; };
  one(kivi<4>{});
  one(pipeline{streaming_llm{}, keep, kivi<4>{}});
  one(pipeline{knorm{}, keep, kivi<4>{}});
  one(pipeline{snapkv{}, keep, kvmerger{}, kivi<4>{}});
  return failed;
}
