// expect: kvslim: this codec has prepare() or finish() and does not say .space = basis::own
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

struct turned : kvslim::token_key<8> {
  static constexpr kvslim::codec_traits traits{.form = kvslim::form_id{1}, .encodes_stored = true};
  void prepare(float const*, kvslim::site const&, float*) const {}
};
constexpr kvslim::packed_layout<turned, kvslim::dense_value<kvslim::f16>> layout{};
static_assert(sizeof layout > 0);
