// expect: kvslim: planar units hold 1, 2, 4 or 8 bit codes
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

void run(std::uint8_t* unit) { kvslim::ops::put_unit<3>(unit, 0, 1); }
