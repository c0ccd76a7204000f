// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// The stages between scores and storage, over policies that are known at run time only.

#include "methods.hpp"

namespace example {

/// Rows that keep one set.
struct sharing {
  kvslim::row_group rows;
  kvslim::reduce how = kvslim::reduce::mean;
  bool leads = false;
};

/// The methods of a run; null: the stage is left out.
struct chosen {
  scorer_method const* scorer = nullptr;
  rescorer_method const* rescorer = nullptr;
  scorer_method const* other = nullptr;  ///< of a rescorer that takes two
  quota_method const* quota = nullptr;
  keep_method const* keep = nullptr;
  merger_method const* merger = nullptr;
  mover_method const* mover = nullptr;
  codec_method const* codec = nullptr;
  index_method const* index = nullptr;
  std::optional<sharing> shared;
};

/// What stays, and the rows to store: those of the file, or those that a merger or a repositioner
/// made of them.
struct selection {
  kept_cells kept;  ///< of the file
  cells made;       ///< empty: the file's rows are stored as they are
  kept_cells made_kept;
  kvslim::plan_options options;
  std::vector<std::int32_t> asked_positions;  ///< of the queries; empty: the newest
  index_method const* index = nullptr;

  [[nodiscard]] to_store rows(problem const&);
};

/// Scores that rows of a group share.
void share(problem const&, sharing const&, ranked&);

selection select(problem const&, chosen const&, ranked const&);

/// Scores by cell [rows, cells]; -infinity where a cell holds no token.
std::vector<float> by_cell(problem const&, ranked const&);

}  // namespace example
