// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Methods by name. A table holds one object for every method of a stage: its options as pointers
// into its policy, and what the stage asks of it behind virtual functions. What is compiled grows
// with the methods of each stage, not with their combinations.

#include "problem.hpp"

#include <kvslim/score/chunked.hpp>

#include <functional>
#include <memory>
#include <string>
#include <typeinfo>
#include <utility>
#include <variant>
#include <vector>

namespace example {

// Where an option's value goes.
struct tokens_to {  ///< tokens; "25%" is of the longest row's
  index_t* value;
};
struct sequences_to {  ///< a number, or "all"
  index_t* value;
};
struct heads_to {  ///< KV heads; "all", the default, is the file's
  index_t* value;
};
template <class T>
struct list_to {  ///< an array that the policy points to
  T const** data;
  std::function<index_t()> size;  ///< how long it must be, once all options are set
  std::shared_ptr<std::vector<T>> values = std::make_shared<std::vector<T>>();
};
struct choice_of {  ///< one of some names
  std::vector<std::string> names;
  std::function<std::size_t()> get;
  std::function<void(std::size_t)> set;
};
template <class Enum>
choice_of choice(Enum& value, std::vector<std::string> names) {
  return {std::move(names), [&value] { return static_cast<std::size_t>(value); },
          [&value](std::size_t i) { value = static_cast<Enum>(i); }};
}

struct option {
  std::string name;
  std::variant<bool*, index_t*, std::uint64_t*, float*, double*, tokens_to, sequences_to, heads_to,
               list_to<std::int32_t>, list_to<std::uint8_t>, list_to<float>, choice_of>
      to;
  std::string note;
};
using options = std::vector<option>;

/// A method as the tables hold it.
struct method {
  std::string name, source;
  std::string what;
  example::options options;
  /// Becomes a policy of the library's, if that is of its type.
  std::function<bool(std::type_info const&, void const*)> take;

  method() = default;
  method(method const&) = delete;
  method& operator=(method const&) = delete;
  virtual ~method() = default;
};

struct scorer_method : method {
  [[nodiscard]] virtual bool states_statistics() const = 0;
  /// Refuses what the file lacks.
  [[nodiscard]] virtual ranked score(problem const&) const = 0;
  /// Asked about one chunk of the text at a time; refuses where that makes no sense.
  [[nodiscard]] virtual ranked score_chunks(problem const&, kvslim::chunked_options) const = 0;
};

/// What wraps a scorer; it asks for scores alone.
struct rescorer_method : method {
  [[nodiscard]] virtual bool takes_two() const { return false; }
  /// `scores`: of the scorer. `other`: of a second one, where it takes two.
  virtual void rescore(problem const&, scorer_method const&, ranked& scores,
                       ranked const& other) const = 0;
};

struct quota_method : method {
  [[nodiscard]] virtual bool reads_statistics() const = 0;
  [[nodiscard]] virtual kvslim::status check(kvslim::extents const&) const = 0;
  [[nodiscard]] virtual kvslim::row_group group() const = 0;
  [[nodiscard]] virtual index_t most(kvslim::extents const&) const = 0;
  [[nodiscard]] virtual index_t total(kvslim::extents const&) const = 0;
  [[nodiscard]] virtual kvslim::contest open(kvslim::extents const&, index_t recent) const = 0;
  virtual void allocate(kvslim::slice<kvslim::row_facts const>,
                        kvslim::slice<kvslim::quota>) const = 0;
};

struct keep_method : method {
  [[nodiscard]] virtual kvslim::status check(kvslim::extents const&) const = 0;
  [[nodiscard]] virtual index_t scratch_bytes(kvslim::extents const&) const = 0;
  [[nodiscard]] virtual kvslim::status keep(kvslim::text<cache> const&, kvslim::score_view,
                                            kvslim::slice<kvslim::quota const>, kvslim::fate*,
                                            std::byte*) const = 0;
};

struct merger_method : method {
  [[nodiscard]] virtual bool assigns() const = 0;
  [[nodiscard]] virtual bool works_alone() const = 0;  ///< without a quota
  [[nodiscard]] virtual kvslim::status check() const = 0;
  [[nodiscard]] virtual bool mass_bias() const = 0;
  [[nodiscard]] virtual bool grows() const = 0;
  // Of one that folds runs.
  [[nodiscard]] virtual kvslim::run_rule joins() const = 0;
  [[nodiscard]] virtual float fact(kvslim::fold_member const&) const = 0;
  [[nodiscard]] virtual kvslim::fold_weights weigh(kvslim::fold_member const&) const = 0;
  // Of one that assigns.
  [[nodiscard]] virtual bool folds_keys() const = 0;
  [[nodiscard]] virtual index_t span() const = 0;
  [[nodiscard]] virtual index_t scratch_floats(kvslim::extents const&) const = 0;
  [[nodiscard]] virtual kvslim::status assign(kvslim::text<cache> const&, kvslim::score_view,
                                              kvslim::fate const*, kvslim::folding const&,
                                              float*) const = 0;
  [[nodiscard]] virtual kvslim::fold_share share(float) const = 0;
};

struct mover_method : method {
  [[nodiscard]] virtual kvslim::status check(kvslim::extents const&) const = 0;
  [[nodiscard]] virtual std::uint64_t fingerprint() const = 0;
  virtual void move(float* key, index_t head_dim, std::int32_t from, std::int32_t to) const = 0;
};

struct codec_method : method {
  [[nodiscard]] virtual stored store(to_store const&) const = 0;
};

/// Slots that queries read of every row.
struct pages {
  std::vector<std::int32_t> begin_end, counts;
  index_t most = 0;
  std::size_t bytes = 0;  ///< of the index
  double ms = 0;
};

struct index_method : method {
  [[nodiscard]] virtual pages choose(cells const& rows, queries const&,
                                     kvslim::plan_options) const = 0;
};

template <class Stage>
using table = std::vector<std::unique_ptr<Stage>>;

/// Adds a method: `describe(policy)` names its options.
template <class Held, class Stage, class Describe>
void add(table<Stage>& all, char const* name, char const* source, char const* what,
         Describe const& describe) {
  auto held = std::make_unique<Held>();
  held->name = name;
  held->source = source;
  held->what = what;
  held->options = describe(held->policy);
  held->take = [mine = &held->policy](std::type_info const& type, void const* policy) {
    using own = std::remove_cvref_t<decltype(*mine)>;
    if (type != typeid(own)) return false;
    *mine = *static_cast<own const*>(policy);
    return true;
  };
  all.push_back(std::move(held));
}

/// For a method that has no options.
inline constexpr auto no_options = [](auto&) { return options{}; };

table<scorer_method> scorers();
table<rescorer_method> rescorers();
table<quota_method> quotas();
table<keep_method> keep_rules();
table<merger_method> mergers();
table<mover_method> movers();
table<codec_method> codecs();
table<index_method> indices();

}  // namespace example
