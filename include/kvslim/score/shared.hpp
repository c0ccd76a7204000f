// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Rows that keep one set: the heads of a layer, or of several layers of one sequence, are selected
// by the mean (sum, maximum) of their scores.
//
// Fidelity: no paper; methods that select per layer (TOVA) are `shared` over the heads. Tokens meet
// by
//   rank, so the rows of a group should hold the same tokens; where one is shorter, a rank is
//   reduced over the rows that have it.

#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Any scorer, with its scores reduced over a group of rows: `shared{snapkv{}, {.kv_heads = 8}}`.
/// Requires: a group that divides the view's sequences and kv_heads (invalid_shape).
/// Cost: one read and write of the scores.
template <scorer Scorer>
struct shared : Scorer {
  row_group rows = {};
  reduce how = reduce::mean;
  bool leads = false;  ///< only the first sequence of a group (its first layer) has a say
};
template <class Scorer>
shared(Scorer, row_group) -> shared<Scorer>;
template <class Scorer>
shared(Scorer, row_group, reduce) -> shared<Scorer>;
template <class Scorer>
shared(Scorer, row_group, reduce, bool) -> shared<Scorer>;

namespace detail {

template <class Scorer>
inline constexpr bool is_shared = false;
template <class Scorer>
inline constexpr bool is_shared<shared<Scorer>> = true;

}  // namespace detail

KVSLIM_END_NAMESPACE
