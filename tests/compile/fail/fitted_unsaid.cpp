// expect: kvslim: this codec has fit() and does not say .fitted = true
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

struct modest : kvslim::token_key<8> {
  static constexpr kvslim::codec_traits traits{.form = kvslim::form_id{1}};
  template <class Read>
  void fit(Read const&, kvslim::index_t, kvslim::site const&, std::byte*, float*) const {}
};
constexpr kvslim::packed_layout<modest, kvslim::dense_value<kvslim::f16>> layout{};
static_assert(sizeof layout > 0);
