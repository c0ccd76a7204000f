// expect: kvslim: this codec says .fitted and has no
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

struct unfit : kvslim::token_key<8> {
  static constexpr kvslim::codec_traits traits{.form = kvslim::form_id{1}, .fitted = true};
};
constexpr kvslim::packed_layout<unfit, kvslim::dense_value<kvslim::f16>> layout{};
static_assert(sizeof layout > 0);
