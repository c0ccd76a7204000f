// expect: kvslim: this codec has group() and does not say .grouped = true
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

struct modest : kvslim::token_key<8> {
  static constexpr kvslim::codec_traits traits{.form = kvslim::form_id{1}};
  kvslim::row_group group() const { return {2, 1}; }
};
constexpr kvslim::packed_layout<modest, kvslim::dense_value<kvslim::f16>> layout{};
static_assert(sizeof layout > 0);
