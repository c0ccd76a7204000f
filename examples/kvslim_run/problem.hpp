// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// What a run reads: the tensors of a file, and what it hands from stage to stage.

#include <kvslim/core/concepts.hpp>
#include <kvslim/ops/fold.hpp>
#include <kvslim/run/plan.hpp>

#include <chrono>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace example {

using kvslim::index_t;

/// What ends a run: one sentence.
struct refusal : std::runtime_error {
  using std::runtime_error::runtime_error;
};
void demand(kvslim::status const&);

/// The one type of view. K and V of 16 bits are widened, which changes no result: the library
/// computes in float.
using cache = kvslim::archetype::cache;

/// A cache in memory of its own. Arrays per cell are empty where not given.
struct cells {
  kvslim::extents extent;
  std::vector<float> k, v;
  std::vector<std::int32_t> positions, lengths;
  std::vector<std::uint8_t> valid;
  std::vector<float> bias;
  bool positions_per_head = false, lengths_per_head = false, valid_per_head = false,
       bias_per_head = false;

  [[nodiscard]] cache view() const;
};

/// Rows of queries [B, heads, tokens, head_dim], or of a table of the model's [layers, ...].
struct queries {
  std::vector<float> values;
  index_t sequences = 0, heads = 0, tokens = 0, head_dim = 0;

  [[nodiscard]] bool given() const { return tokens > 0; }
  /// The newest n of them.
  [[nodiscard]] kvslim::rows_view<float const> newest(index_t n) const;
};

struct problem {
  cells data;
  queries window;  ///< q
  queries asked;   ///< queries
  queries raw;     ///< raw_queries
  queries probes, probe_keys;
  std::vector<kvslim::probe_stretch> probe_stretches;
  queries filters;           ///< query_filters
  queries mean, covariance;  ///< query_mean, query_covariance
  queries projection;        ///< output_projection
  queries hidden;            ///< of every cell
  queries gate_query, gate_query_bias, gate_query_gain, gate_key, gate_key_gain, gate_sinks,
      gate_offset;
  queries key_basis, value_basis;
  std::vector<float> given;  ///< scores [rows, cells]
  std::vector<std::int32_t> asked_positions;
  kvslim::logit_rule logit;

  [[nodiscard]] index_t held() const;     ///< tokens in all rows
  [[nodiscard]] index_t longest() const;  ///< tokens of the longest row
};

/// Scores of every row by rank, what the scorer protects at the end of a row.
struct ranked {
  std::vector<float> scores;  // [rows, tokens]
  index_t recent = 0;
  std::vector<kvslim::row_statistics> statistics;  // [rows], of a scorer that states them
};

/// Reads and checks the tensors of a file. Throws refusal or safetensors_error.
problem read_problem(std::string const& path);

/// Repeats what belongs to a KV head for each query head that reads it, tables of the model's left
/// out. Throws refusal where the file says no number of query heads.
void repeat_heads(problem&);

/// Cells that stay, in text order: row r has [begins[r], begins[r + 1]).
struct kept_cells {
  std::vector<std::int64_t> begins;
  std::vector<std::int32_t> cells;

  [[nodiscard]] index_t most() const;
  [[nodiscard]] kvslim::keep_set set();
};

/// All slots of the rows of `rows`, whose lengths are per head.
kept_cells all_of(cells const& rows);

struct index_method;

/// What a codec is given: the rows, which of their cells, and what to ask of the stored form.
struct to_store {
  cache view;
  kvslim::keep_set keep;
  index_t most = 0;  ///< kept by one row
  kvslim::plan_options options;
  queries const* asked = nullptr;
  std::int32_t const* asked_positions = nullptr;
  index_method const* index = nullptr;
  queries const* key_basis = nullptr;  ///< not given: of no rows
  queries const* value_basis = nullptr;
  queries const* window = nullptr;  ///< likewise
};

/// What came of it; rows [rows, most] with zeros behind a row's end.
struct stored {
  std::size_t bytes = 0;
  std::vector<float> k, v, bias;
  std::vector<std::int32_t> positions;
  std::vector<std::int32_t> next_position;  ///< [rows]
  std::vector<float> out, lse;
  std::optional<index_t> tokens_read;  ///< by the queries, of all rows; with an index
  double encode_ms = 0, decode_ms = 0, pages_ms = 0, attend_ms = 0;
};

/// Milliseconds that f takes.
template <class F>
double timed(F const& f) {
  auto const start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
      .count();
}

}  // namespace example
