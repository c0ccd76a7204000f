// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Tables for the methods that load theirs: what a text that is not scored says of a model's keys
// and values. The authors' own calibrations start from the same singular vectors; where they train
// further, the comparison's row is of the start.

#include "inference/session.hpp"

namespace example {

class calibration {
 public:
  /// A stretch of text; the model is shown it when a table is first asked for.
  calibration(model& m, std::vector<index_t> tokens) : model_(m), words_(std::move(tokens)) {}

  /// CSKV: directions of a layer's keys before RoPE and of its values, all heads side by side;
  /// `in_codes` twice, as the maps to latents and back.
  [[nodiscard]] loaded_tables cskv(index_t rank, bool in_codes) const;
  /// Eigen Attention: directions of a layer's keys before RoPE, one set for all heads, and of each
  /// head's values.
  [[nodiscard]] loaded_tables eigen_attention(index_t rank) const;
  /// Palu: maps of each group of `heads` heads to its latents and back, through a Hadamard matrix.
  /// `rank` is a power of two.
  [[nodiscard]] loaded_tables palu(index_t heads, index_t rank) const;
  /// MatryoshkaKV: means and all principal directions of each head's keys and values.
  [[nodiscard]] loaded_tables matryoshkakv() const;

 private:
  [[nodiscard]] prefilled const& text() const;

  model& model_;
  std::vector<index_t> words_;
  mutable std::optional<prefilled> text_;
};

}  // namespace example
