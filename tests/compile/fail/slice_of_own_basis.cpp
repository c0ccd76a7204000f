// expect: kvslim: slice_of_key reads keys by channels, not those in a basis of their own
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "../../support/own_basis.hpp"

using turned = own_basis::turned<>;
constexpr kvslim::packed_layout<turned, kvslim::slice_of_key<turned>> layout{};
static_assert(sizeof layout > 0);
