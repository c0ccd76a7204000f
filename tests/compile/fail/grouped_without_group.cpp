// expect: kvslim: this codec says .grouped and has no
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

struct alone : kvslim::token_key<8> {
  static constexpr kvslim::codec_traits traits{.form = kvslim::form_id{1}, .grouped = true};
};
constexpr kvslim::packed_layout<alone, kvslim::dense_value<kvslim::f16>> layout{};
static_assert(sizeof layout > 0);
