// expect: kvslim: a quantizer needs
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

struct incomplete {
  static constexpr kvslim::quantizer_traits traits{};
  int key_codec() const { return 0; }
};
auto const p = kvslim::pipeline{incomplete{}};
