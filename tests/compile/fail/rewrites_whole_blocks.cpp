// expect: kvslim: a codec that writes whole blocks cannot rewrite
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

struct both : kvslim::token_key<8> {
  static constexpr kvslim::codec_traits traits{
      .form = kvslim::form_id{1}, .whole_blocks = true, .rewrites = true, .encodes_stored = true};
};
constexpr kvslim::packed_layout<both, kvslim::dense_value<kvslim::f16>> layout{};
static_assert(sizeof layout > 0);
