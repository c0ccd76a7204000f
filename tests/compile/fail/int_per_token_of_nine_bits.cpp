// expect: kvslim: int_per_token has 1 to 8 bits
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

auto const p = kvslim::int_per_token<9>{};
