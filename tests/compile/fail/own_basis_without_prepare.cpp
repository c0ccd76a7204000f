// expect: kvslim: a key codec in a basis of its own has no `prepare(q, at, own)`
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

struct turned : kvslim::token_key<8> {
  static constexpr kvslim::codec_traits traits{
      .form = kvslim::form_id{1}, .space = kvslim::basis::own, .encodes_stored = true};
};
constexpr kvslim::packed_layout<turned, kvslim::dense_value<kvslim::f16>> layout{};
static_assert(sizeof layout > 0);
