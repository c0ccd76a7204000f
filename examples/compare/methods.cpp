// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "compare/entries.hpp"

namespace example {

using namespace kvslim;

std::vector<method> methods(model const& m, bool bytes,
                            std::shared_ptr<calibration const> const& text,
                            std::shared_ptr<gates const> const& gated) {
  snapkv const snap{{.window = 32, .pool = snapkv_pool(bytes)}};
  std::vector<method> list{entry("exact f16", family::exact, [](index_t) { return dense<f16>{}; })};
  add_quantized(list, m.rope());
  add_evicted(list, m, snap, gated);
  add_shared_budgets(list, m.shape(), snap, gated);
  add_while_decoding(list, m.shape());
  if (text != nullptr) add_loaded(list, m, text);
  add_combined(list, m.shape(), snap);
  return list;
}

}  // namespace example
