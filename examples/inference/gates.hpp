// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Fast KVzip's gates beside a model's layers, as reference_model/train_gate.py writes them.

#include "model.hpp"

#include <kvslim/core/evidence.hpp>

namespace example {

class gates {
 public:
  /// Throws gguf_error where a gate is missing or does not fit the model.
  gates(gguf const& file, model_shape const& shape);

  /// Those of some layers; they point into this.
  [[nodiscard]] kvslim::gate_weights<> of(index_t layer, index_t layers) const;

 private:
  /// Every layer's weights of one kind, [layer, heads, rows, columns].
  struct table {
    index_t heads, rows, columns;
    std::vector<float> data;
  };

  table query_, query_bias_, query_gain_, key_, key_gain_, sinks_, offset_;
};

}  // namespace example
