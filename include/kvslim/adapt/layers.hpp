// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/slice.hpp>
#include <kvslim/core/view.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace adapt {

/// What layers() makes of views of that type.
template <class View>
using layers_view =
    cache_view<plane<std::remove_pointer_t<decltype(View{}.k.data)>,
                     scattered<typename View::key_plane::layout_type>, typename View::space>,
               plane<std::remove_pointer_t<decltype(View{}.v.data)>,
                     scattered<typename View::value_plane::layout_type>, typename View::space>>;

/// One view of the caches of several layers, wherever they lie: the layers of one sequence become
/// consecutive sequences, so that `shared{..., {layers, kv_heads}}` and quotas can span them. No
/// copy.
///
/// Shapes: `origins` [2, layers * sequences] in memory of the view's space that outlives it; views
/// of equal extents and layouts. Lengths, positions, validity and biases are taken over if the
/// layers have one sequence and all name the same arrays. Returns: invalid_shape (views that
/// differ), invalid_pointer (null, or distances that are no multiple of the element), unsupported
/// (arrays that differ; set them on a view without).
template <class View>
[[nodiscard]] status layers(slice<View const> views, index_t* origins,
                            layers_view<View>& out) noexcept {
  if (views.data == nullptr || views.size < 1 || origins == nullptr)
    return detail::fail(errc::invalid_pointer, "kvslim: layers was given a null pointer");
  View const& first = views[0];
  auto e = first.extent;
  if (auto const s = detail::check_extents(e); !s) return s;
  if (views.size > extents::most_rows / e.rows())
    return detail::fail(errc::invalid_shape, "kvslim: there are at most 2^24 rows");
  index_t const sequences = e.sequences, all = views.size * sequences;
  bool arrays = false;
  for (auto const& view : views) {
    if (!(view.extent == e) ||
        __builtin_memcmp(&view.k.layout, &first.k.layout, sizeof first.k.layout) != 0 ||
        __builtin_memcmp(&view.v.layout, &first.v.layout, sizeof first.v.layout) != 0)
      return detail::fail(errc::invalid_shape, "kvslim: layers differ in extents or layout");
    if (view.lengths.data != first.lengths.data || view.positions.data != first.positions.data ||
        view.valid.data != first.valid.data || view.bias.data != first.bias.data)
      return detail::fail(errc::unsupported, "kvslim: layers name different arrays");
    arrays = arrays || view.lengths.data != nullptr || view.positions.given() ||
             view.valid.given() || view.bias.given();
  }
  if (arrays && sequences > 1)
    return detail::fail(errc::unsupported,
                        "kvslim: arrays of several sequences cannot be repeated for every layer");
  for (index_t l = 0; l < views.size; ++l) {
    index_t key = 0, value = 0;
    auto const* const k = views[l].k.data;
    auto const* const v = views[l].v.data;
    if (auto const s = scatter_origins(static_cast<decltype(k)>(first.k.data), &k, 1, &key); !s)
      return s;
    if (auto const s = scatter_origins(static_cast<decltype(v)>(first.v.data), &v, 1, &value); !s)
      return s;
    for (index_t s = 0; s < sequences; ++s) {
      origins[s * views.size + l] = key;
      origins[all + s * views.size + l] = value;
    }
  }
  e.sequences = all;
  out = {};
  out.extent = e;
  out.k = {first.k.data, {first.k.layout, origins, views.size}};
  out.v = {first.v.data, {first.v.layout, origins + all, views.size}};
  if (first.lengths.data != nullptr) out.lengths = {first.lengths.data, 0, first.lengths.kv_head};
  if (first.positions.given()) out.positions = {first.positions.data, 0, first.positions.kv_head};
  if (first.valid.given()) out.valid = {first.valid.data, 0, first.valid.kv_head};
  if (first.bias.given()) out.bias = {first.bias.data, 0, first.bias.kv_head};
  return {};
}

}  // namespace adapt

KVSLIM_END_NAMESPACE
