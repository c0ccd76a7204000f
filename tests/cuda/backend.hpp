// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// A policy, a plan and data on both backends: how each row of the backend test compares them.

#include "both.hpp"

namespace on_device {
using namespace kvslim;

struct problem {
  char const* name;
  extents e;
  traits has;
  index_t group;
};

/// How far the backends' bytes must agree: all of them; tokens and values, where a scorer's
/// rounding may show in columns; or tokens alone, where rows are computed from others.
enum class exactness { bytes, tokens };

template <class Policy, class OnGpu>
void compare_tables(problem const& p, char const* method, Policy const& policy, OnGpu const& on_gpu,
                    exactness exact, index_t append = 5) {
  char name[128];
  std::snprintf(name, sizeof name, "%s, %s", p.name, method);
  cells const c(p.e, p.has, 5);
  index_t const window = 16;
  asked_rows<float> const q({p.e.sequences, p.e.kv_heads * p.group, window, p.e.head_dim}, 8);
  asked_rows<f16> const filters({p.e.sequences, p.e.kv_heads, 1, p.e.head_dim}, 9);
  index_t const heads = p.e.kv_heads * p.group, dim = p.e.head_dim;
  asked_rows<bf16> const raw({p.e.sequences, heads, p.e.tokens, dim}, 10);
  asked_rows<float> const means({1, heads, 1, dim}, 11), covariances({1, heads, dim, dim}, 12);
  asked_rows<bf16> const probing({p.e.sequences, heads, 100, dim}, 13),
      own({p.e.sequences, p.e.kv_heads, 100, dim}, 14);
  probe_stretch const stretches[] = {{0, 70, 3, 45}, {75, 25, 50, 90}};
  slice<probe_stretch const> const parts{stretches, 2};
  asked_rows<f16> const weights({p.e.sequences, heads, p.e.value_width(), 45}, 15);
  asked_rows<bf16> const states({p.e.sequences, 1, p.e.tokens, 50}, 16);
  asked_rows<f16> const gate_query({1, heads, 12, 50}, 17), gate_key({1, p.e.kv_heads, 12, 50}, 18);
  asked_rows<float> const gate_row({1, 1, 1, 12}, 19), gate_bias({1, heads, 1, 12}, 20),
      gate_sinks({1, p.e.kv_heads, 5, 12}, 21), gate_offset({1, p.e.kv_heads, 1, p.group}, 22);
  std::vector<float> scores(static_cast<std::size_t>(p.e.rows() * p.e.tokens));
  for (std::size_t i = 0; i < scores.size(); ++i) scores[i] = static_cast<float>(i * 7919 % 211);
  device<float> const dscores(scores);
  plan_options const options{
      .append_tokens = append, .positions = p.has.positions || p.has.valid, .biases = p.has.bias};
  stored s(make_plan(policy, p.e, options));
  passed(s.plan.check(), name);
  s.compress(
      c,
      evidence{window_queries<>{q.on_host()}, token_scores<>{scores.data()},
               query_filters<>{filters.on_host()}, raw_queries<>{raw.on_host()},
               query_statistics<>{means.on_host(), covariances.on_host()},
               probes<>{probing.on_host(), own.on_host(), parts},
               output_projection<>{weights.on_host()}, hidden_states<>{states.on_host()},
               gate_weights<>{gate_query.on_host(), gate_bias.on_host(), gate_row.on_host(),
                              gate_key.on_host(), gate_row.on_host(), gate_sinks.on_host(),
                              gate_offset.on_host()}},
      evidence{window_queries<cuda_space>{q.on_gpu()}, token_scores<cuda_space>{dscores.get()},
               query_filters<cuda_space>{filters.on_gpu()}, raw_queries<cuda_space>{raw.on_gpu()},
               query_statistics<cuda_space>{means.on_gpu(), covariances.on_gpu()},
               probes<cuda_space>{probing.on_gpu(), own.on_gpu(), parts},
               output_projection<cuda_space>{weights.on_gpu()},
               hidden_states<cuda_space>{states.on_gpu()},
               gate_weights<cuda_space>{gate_query.on_gpu(), gate_bias.on_gpu(), gate_row.on_gpu(),
                                        gate_key.on_gpu(), gate_row.on_gpu(), gate_sinks.on_gpu(),
                                        gate_offset.on_gpu()}},
      name, make_plan(on_gpu, p.e, options));
  s.same(name, exact == exactness::bytes, exact == exactness::bytes);
  double error = 0.0;
  for (index_t const splits : {1, 3})
    error = std::max(
        error, attend_both(s, {.group = p.group, .splits = splits, .logits = splits == 1}, name));
  std::printf("  %-70s relative error of attention %.1e\n", name, error);
}

template <class Policy>
void compare(problem const& p, char const* method, Policy const& policy, exactness exact,
             index_t append = 5) {
  compare_tables(p, method, policy, policy, exact, append);
}

/// Baselines, every stored form, bases, positions that move: the unit beside the methods'.
void stored_forms(problem const& p);
void other_shapes();

}  // namespace on_device
