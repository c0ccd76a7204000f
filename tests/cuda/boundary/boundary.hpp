// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// What an engine passes between its .cpp and its .cu files: plans, views and stored caches of
// device memory in signatures. They link if both name kvslim's types alike.

#include <kvslim/run/plan.hpp>
#include <kvslim/score/knorm.hpp>
#include <kvslim/select/top_k.hpp>
#include <kvslim/store/packed_cache.hpp>

namespace boundary {

using plan = kvslim::compression_plan<kvslim::pipeline<kvslim::knorm, kvslim::top_k>>;
using view = kvslim::cache_view<kvslim::plane<float const, kvslim::strided, kvslim::cuda_space>>;
using packed =
    kvslim::packed_cache<plan::key_codec_type, plan::value_codec_type, kvslim::cuda_space>;

// one.cu and two.cu are the same code, built for different devices.
kvslim::status select_in_one(plan const& p, view const& v, packed const& c, void* stream);
kvslim::status select_in_two(plan const& p, view const& v, packed const& c, void* stream);
// What each calls the executor, and with it every kernel and all that launches one.
char const* executor_of_one();
char const* executor_of_two();

}  // namespace boundary
