// expect: kvslim: value_codec() must return a value_codec
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

struct swapped {
  static constexpr kvslim::quantizer_traits traits{};
  kvslim::token_key<8> key_codec() const { return {}; }
  kvslim::token_key<8> value_codec() const { return {}; }
};
auto const plan = kvslim::make_plan(swapped{}, {1, 1, 8, 8});
