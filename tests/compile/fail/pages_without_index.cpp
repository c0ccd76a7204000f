// expect: kvslim: pages are selected by a pipeline that ends in an index
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

auto const bytes =
    kvslim::select_pages_bytes(kvslim::make_plan(kvslim::kivi<4>{}, {1, 1, 100, 64}), 1);
