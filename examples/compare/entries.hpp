// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// What rows are made of, and who adds which. One unit each: policies compile side by side.

#include "compare/methods.hpp"

namespace example {

/// `make(length)` gives the policy for that many tokens. A window of 0 is all queries.
template <class MakePolicy>
method entry(std::string name, family kind, MakePolicy make, session_options options = {}) {
  return {std::move(name), kind,
          [=](prefilled const& text, index_t length, index_t append) -> std::unique_ptr<session> {
            auto with = options;
            if (with.window == 0) with.window = length;
            return std::make_unique<policy_session<decltype(make(length))>>(text, make(length),
                                                                            length, append, with);
          }};
}

inline auto keep(double fraction, index_t tokens) {
  return kvslim::top_k{{.budget = kvslim::budget_for(fraction, tokens), .sinks = 4, .recent = 32}};
}

/// One budget for the heads of all layers, which compete.
inline auto one(double fraction, index_t tokens, model_shape const& s) {
  return kvslim::one_budget{{.budget = kvslim::budget_for(fraction, tokens),
                             .rows = {s.layers, s.kv_heads},
                             .sinks = 4,
                             .recent = 32}};
}

class calibration;

void add_quantized(std::vector<method>& list, kvslim::rope const& rotation);
void add_evicted(std::vector<method>& list, model const& m, kvslim::snapkv const& snap,
                 std::shared_ptr<gates const> const& gated);
/// Who decides how much each head and layer keeps.
void add_shared_budgets(std::vector<method>& list, model_shape const& s, kvslim::snapkv const& snap,
                        std::shared_ptr<gates const> const& gated);
/// A fixed budget while decoding: as many tokens leave as come.
void add_while_decoding(std::vector<method>& list, model_shape const& s);
/// Low rank by tables that were made of another text.
void add_loaded(std::vector<method>& list, model const& m,
                std::shared_ptr<calibration const> const& text);
/// Merged tokens, merged layers, and policies of several stages.
void add_combined(std::vector<method>& list, model_shape const& s, kvslim::snapkv const& snap);

}  // namespace example
