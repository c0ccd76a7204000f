// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// The kernels that sass.sh counts.

#include <kvslim/ops/attention_mass.cuh>
#include <kvslim/run/attend.cuh>

using namespace kvslim;

template <class Key, class Value>
using cache = packed_cache<Key, Value, cuda_space>;
using request = attend_request<cuda_space>;

template status kvslim::attend(cuda, cache<token_key<4>, token_value<4>> const&, request const&,
                               workspace);
template status kvslim::attend(cuda, cache<channel_key<4>, token_value<4>> const&, request const&,
                               workspace);
template status kvslim::attend(cuda, cache<dense_key<f16>, dense_value<f16>> const&, request const&,
                               workspace);

template status kvslim::attend(cuda, cache<fp8_key<e4m3>, fp8_value<e4m3>> const&, request const&,
                               workspace);
template status kvslim::attend(cuda, cache<dense_key<f16>, slice_of_key<dense_key<f16>>> const&,
                               request const&, workspace);

using seen = text<decltype(dense_cache<cuda_space, f16 const>(nullptr, nullptr, extents{}))>;
template status ops::attention_mass(cuda const&, seen const&, rows<cuda_space> const&,
                                    ops::mass_options const&, score_view, float*);
