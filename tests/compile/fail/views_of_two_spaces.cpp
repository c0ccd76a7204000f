// expect: kvslim: K and V must live in the same memory space
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

using host = kvslim::plane<float, kvslim::strided>;
using device = kvslim::plane<float, kvslim::strided, kvslim::cuda_space>;
kvslim::cache_view<host, device> view;
