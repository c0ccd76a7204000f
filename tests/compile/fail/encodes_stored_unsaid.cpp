// expect: kvslim: a codec says .encodes_stored = true if, and only if, it has `encode_stored(
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

struct silent : kvslim::token_key<8> {
  static constexpr kvslim::codec_traits traits{.form = kvslim::form_id{1}};
};
constexpr kvslim::packed_layout<silent, kvslim::dense_value<kvslim::f16>> layout{};
static_assert(sizeof layout > 0);
