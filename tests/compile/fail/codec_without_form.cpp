// expect: compiler: form
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

struct anonymous : kvslim::token_key<8> {
  static constexpr kvslim::codec_traits traits{.rewrites = true};
};
constexpr kvslim::packed_layout<anonymous, kvslim::dense_value<kvslim::f16>> layout{};
static_assert(sizeof layout > 0);
