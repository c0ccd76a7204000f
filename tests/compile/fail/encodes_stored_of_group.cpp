// expect: kvslim: rows that share blocks do not lie side by side
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

struct together : kvslim::token_key<8> {
  static constexpr kvslim::codec_traits traits{
      .form = kvslim::form_id{1}, .encodes_stored = true, .grouped = true};
  kvslim::row_group group() const { return {1, 2}; }
};
constexpr kvslim::packed_layout<together, kvslim::dense_value<kvslim::f16>> layout{};
static_assert(sizeof layout > 0);
