// expect: kvslim: from_float knows float, f16, bf16, e4m3 and e5m2
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

auto const x = kvslim::from_float<int>(1.0f);
