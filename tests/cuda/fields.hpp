// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Everything that an attention request may ask, over caches with tails and holes.

#include "both.hpp"

#include <algorithm>
#include <cstdio>
#include <initializer_list>
#include <memory>
#include <vector>

namespace on_device {

using namespace kvslim;

struct cache {
  char const* name;
  extents e;
  traits has = {};
  logit_rule logit = {};
};

/// A cache with a tail in its ring and, where codecs rewrite, holes among its slots.
template <class Policy>
auto filled(cache const& c, Policy const& policy, bool holes, char const* name) {
  auto const plan = make_plan(policy, c.e,
                              {.append_tokens = 40,
                               .draft_tokens = 40,
                               .evicts = holes,
                               .positions = c.has.positions || c.has.valid,
                               .biases = c.has.bias,
                               .logit = c.logit});
  auto s = std::make_unique<stored<std::remove_const_t<decltype(plan)>>>(plan);
  cells const rows(c.e, c.has, 11);
  data::buffer const scratch(plan.workspace_bytes()), more(append_bytes(plan.layout()));
  passed(compress(cpu{}, plan, rows.view<host_space>(), evidence<>{}, s->on_host, scratch), name);
  asked_rows<f16> const k({c.e.sequences, c.e.kv_heads, 37, c.e.head_dim}, 21),
      v({c.e.sequences, c.e.kv_heads, 37, c.e.value_width()}, 22);
  passed(append(cpu{}, s->on_host, k.on_host(), v.on_host(), more), name);
  std::vector<std::int32_t> victims(static_cast<std::size_t>(c.e.rows()));
  for (std::int32_t const slot : {3, 40, 77}) {
    if (!holes) break;
    for (std::size_t r = 0; r < victims.size(); ++r)
      victims[r] = slot < s->on_host.raw_row(static_cast<index_t>(r)).slots ? slot : -1;
    passed(evict(cpu{}, s->on_host, victims.data()), name);
  }
  return s;
}

template <class T = float, class Policy>
void ask_all(cache const& c, char const* method, Policy const& policy, bool holes,
             std::initializer_list<ask> asks) {
  char name[128];
  std::snprintf(name, sizeof name, "%s, %s", c.name, method);
  auto const s = filled(c, policy, holes, name);
  double worst = 0.0;
  for (ask const& a : asks) worst = std::max(worst, attend_both<T>(*s, a, name));
  std::printf("  %-50s %.1e\n", name, worst);
}

/// What a request may hold, one field after the other, then together.
template <class T = float, class Policy>
void every_field(cache const& c, char const* method, Policy const& policy, bool holes) {
  ask_all<T>(c, method, policy, holes,
             {{.group = 1},
              {.group = 2, .tokens = 3},
              {.group = 4, .tokens = 2, .splits = 2, .window = 50},
              {.group = 3, .tokens = 2, .positions = true},
              {.group = 5, .splits = 7, .spans = true, .logits = true},
              {.group = 8, .sinks = true, .active = true, .base2 = true},
              {.group = 16, .some_sequences = true},
              {.group = 9,
               .tokens = 2,
               .splits = 3,
               .window = 120,
               .positions = true,
               .spans = true,
               .sinks = true,
               .logits = true,
               .active = true,
               .base2 = true,
               .some_sequences = true}});
}

}  // namespace on_device
