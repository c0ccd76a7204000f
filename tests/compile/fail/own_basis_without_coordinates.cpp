// expect: kvslim: a codec in a basis of its own has no `coordinate(block, at, j)` or no `load
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

struct turned : kvslim::token_value<8> {
  static constexpr kvslim::codec_traits traits{.form = kvslim::form_id{1},
                                               .space = kvslim::basis::own,
                                               .encodes_stored = true,
                                               .takes_off = true};
  void finish(float*, kvslim::site const&, float*) const {}
};
constexpr kvslim::packed_layout<kvslim::dense_key<kvslim::f16>, turned> layout{};
static_assert(sizeof layout > 0);
