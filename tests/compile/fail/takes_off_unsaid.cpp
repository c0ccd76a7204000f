// expect: kvslim: a codec says .takes_off = true if, and only if, it has `take_off(
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

struct silent : kvslim::token_value<8> {
  static constexpr kvslim::codec_traits traits{
      .form = kvslim::form_id{1}, .encodes_runs = true, .encodes_stored = true};
};
constexpr kvslim::packed_layout<kvslim::dense_key<kvslim::f16>, silent> layout{};
static_assert(sizeof layout > 0);
