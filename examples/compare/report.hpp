// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// What the comparison prints and writes: a table, report.json, and report.dat for report.gnuplot.

#include "compare/methods.hpp"

#include <nlohmann/json.hpp>

namespace example {

/// One method's figures, means over the texts (peak: the largest).
struct result {
  double stored_bytes = 0, ratio = 0, peak_bytes = 0, bits_per_byte = 0, kl = 0, decode_ms = 0,
         compress_ms = 0;
  std::vector<double> text_kl;  ///< the same KL, text by text
  int seen_right = 0, unseen_right = 0, asked = 0;
};

void print_table(std::vector<method> const& list, std::vector<result> const& results);
/// In words: the rows that no other beats, and those that plain baselines of their size do.
void print_verdicts(std::vector<method> const& list, std::vector<result> const& results);

/// A row that names another one, against it: both over the same texts, so that what makes a text
/// hard cancels.
struct pairing {
  std::size_t row;
  double more = 0, error = 0;  ///< of its KL, mean of the texts' differences, and standard error
  int texts_more = 0;          ///< texts in which its KL is the larger
};
std::vector<pairing> pairings(std::vector<method> const& list, std::vector<result> const& results);
void print_pairings(std::vector<method> const& list, std::vector<result> const& results);

/// The methods as JSON, in the table's order.
nlohmann::json to_json(std::vector<method> const& list, std::vector<result> const& results);

/// Blocks for gnuplot: one per family (ratio, KL), then the best points, then the labels.
void write_plot_data(std::string const& path, std::vector<method> const& list,
                     std::vector<result> const& results);

}  // namespace example
