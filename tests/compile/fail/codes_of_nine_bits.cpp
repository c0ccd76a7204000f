// expect: kvslim: codes have 1 to 8 bits
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

auto const x = kvslim::ops::get_stream<9>(nullptr, 0);
