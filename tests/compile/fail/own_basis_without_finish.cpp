// expect: kvslim: a value codec in a basis of its own has no `finish(sum, at, out)`
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

struct turned : kvslim::token_value<8> {
  static constexpr kvslim::codec_traits traits{.form = kvslim::form_id{1},
                                               .space = kvslim::basis::own,
                                               .encodes_stored = true,
                                               .takes_off = true};
};
constexpr kvslim::packed_layout<kvslim::dense_key<kvslim::f16>, turned> layout{};
static_assert(sizeof layout > 0);
