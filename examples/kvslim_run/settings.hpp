// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// A run as JSON: {"score": "snapkv", "select": {"name": "top_k", "options": {"budget": "25%"}},
// ...}.

#include "stages.hpp"

#include <kvslim/presets.hpp>

#include <nlohmann/json.hpp>

#include <string>

namespace example {

using json = nlohmann::ordered_json;

/// Every method, with the options of this run.
class methods {
 public:
  methods();

  /// Names the methods and sets their options; every word that is not known is refused. `p`: what
  /// "25%" and "all" are of.
  [[nodiscard]] chosen choose(json const& settings, problem& p);
  /// What choose() made of the settings, defaults included.
  [[nodiscard]] json resolved(chosen const&, problem const&) const;
  /// Every method, its options, defaults and sources, as text.
  [[nodiscard]] std::string list() const;

 private:
  table<scorer_method> scorers_ = scorers();
  table<scorer_method> others_ = scorers();  // with options of their own
  table<rescorer_method> rescorers_ = rescorers();
  table<quota_method> quotas_ = quotas();
  table<keep_method> keep_rules_ = keep_rules();
  table<merger_method> mergers_ = mergers();
  table<mover_method> movers_ = movers();
  table<codec_method> codecs_ = codecs();
  table<index_method> indices_ = indices();
};

/// JSON text of `where`, one sentence if it is none.
json parse(std::string const& text, std::string const& where);

/// A method's name and options; null: null.
json described(method const*);
json described(sharing);

/// What a preset is made for: --budget, 25% where it is empty, and the file's layers and heads.
kvslim::presets::scale scale_of(std::string const& budget, problem const&);

/// Settings of one of the library's presets or of a row of the comparison.
json preset(std::string const& name, kvslim::presets::scale const&);
/// The library's presets, then the comparison's rows, as text.
std::string list_presets();

}  // namespace example
