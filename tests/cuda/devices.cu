// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// One pair of codecs through every verb, to be compiled for every device (devices.sh).

#include <kvslim/kvslim.cuh>

namespace {
using namespace kvslim;
using plan_type = decltype(make_plan(pipeline{knorm{}, top_k{}, kivi<4>{}}, extents{}));
using cache = decltype(dense_cache<cuda_space, f16 const>(nullptr, nullptr, extents{}));
using packed = packed_cache<plan_type::key_codec_type, plan_type::value_codec_type, cuda_space>;
}  // namespace

namespace devices {

status fill(kvslim::cuda exec, plan_type const& plan, cache const& from, packed const& to,
            workspace scratch) {
  return compress(exec, plan, from, evidence<>{}, to, scratch);
}
status step(kvslim::cuda exec, packed const& in, rows<cuda_space> const& k,
            rows<cuda_space> const& v, attend_request<cuda_space> const& request,
            workspace scratch) {
  if (auto const s = append(exec, in, k, v, scratch); !s) return s;
  if (auto const s = attend(exec, in, request, scratch); !s) return s;
  return settle(exec, in, scratch);
}

}  // namespace devices
