// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// A run as JSON: {"score": "snapkv", "select": {"name": "top_k", "options": {"budget": "25%"}},
// ...}.

#include "stages.hpp"

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

/// Settings of a preset, and the names of all.
json preset(std::string const& name);
std::vector<std::string> preset_names();

}  // namespace example
