// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "compare/calibration.hpp"
#include "compare/entries.hpp"

#include <bit>
#include <numeric>

namespace example {

using namespace kvslim;

namespace {

/// Made when first asked for.
template <class Make>
std::function<loaded_tables const&()> once(Make make) {
  return [make, made = std::make_shared<std::optional<loaded_tables>>()]() -> loaded_tables const& {
    if (!*made) *made = make();
    return **made;
  };
}

}  // namespace

void add_loaded(std::vector<method>& list, model const& m,
                std::shared_ptr<calibration const> const& text) {
  auto const& s = m.shape();
  index_t const heads = s.kv_heads, half = s.head_dim / 2, of_layer = heads * half;
  auto const rotation = m.rope();
  auto const add = [&](char const* name, auto policy, auto tables) {
    list.push_back(
        entry(name, family::low_rank, [=](index_t) { return policy; }, {.tables = once(tables)}));
  };
  auto const cskv_of = [&](auto with) {
    with.opt = {
        .kv_heads = heads, .key_rank = of_layer, .value_rank = of_layer, .rotation = rotation};
    return with;
  };
  add("CSKV, half", cskv_of(cskv<>{}), [=] { return text->cskv(of_layer, false); });
  add("CSKV, half, 4 bit", cskv_of(cskv<f16, 4>{}), [=] { return text->cskv(of_layer, true); });
  add("Eigen Attention, half",
      eigen_attention<>{
          {.kv_heads = heads, .key_rank = half, .value_rank = half, .rotation = rotation}},
      [=] { return text->eigen_attention(half); });
  add("MatryoshkaKV's start, half",
      matryoshkakv<>{{.kv_heads = heads, .key_rank = half, .value_rank = half}},
      [=] { return text->matryoshkakv(); });
  add("MatryoshkaKV's start, three quarters",
      matryoshkakv<>{{.kv_heads = heads, .key_rank = half * 3 / 2, .value_rank = half * 3 / 2}},
      [=] { return text->matryoshkakv(); });
  index_t const group = std::gcd(heads, index_t{4});
  index_t const rank = static_cast<index_t>(std::bit_floor(static_cast<std::size_t>(group * half)));
  auto const palu_of = [&](auto with) {
    with.opt = {.kv_heads = heads,
                .heads = group,
                .key_rank = rank,
                .value_rank = rank,
                .rotation = rotation};
    return with;
  };
  auto const maps = [=] { return text->palu(group, rank); };
  add("Palu, half", palu_of(palu<>{}), maps);
  add("Palu, half, 4 bit", palu_of(palu<4>{}), maps);
}

}  // namespace example
