// expect: kvslim: key_codec() must return a key_codec
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

struct swapped {
  static constexpr kvslim::quantizer_traits traits{};
  kvslim::token_value<8> key_codec() const { return {}; }
  kvslim::token_value<8> value_codec() const { return {}; }
};
auto const plan = kvslim::make_plan(swapped{}, {1, 1, 8, 8});
