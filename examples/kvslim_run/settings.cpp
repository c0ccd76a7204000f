// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "settings.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <limits>
#include <type_traits>
#include <utility>

namespace example {

namespace {

template <class... F>
struct overloaded : F... {
  using F::operator()...;
};
template <class... F>
overloaded(F...) -> overloaded<F...>;

/// "a, b, c"
std::string listed(std::vector<std::string> const& names) {
  std::string text;
  for (auto const& name : names) text += (text.empty() ? "" : ", ") + name;
  return text.empty() ? "none" : text;
}

template <class Stage>
std::vector<std::string> names_of(std::vector<Stage> const& all) {
  std::vector<std::string> names;
  for (auto const& one : all) {
    if constexpr (requires { one.name; })
      names.push_back(one.name);
    else
      names.push_back(one->name);
  }
  return names;
}

/// A number of JSON as a T, or the sentence `what` + `must`.
template <class T>
T number(json const& x, std::string const& what) {
  if constexpr (std::is_floating_point_v<T>) {
    if (!x.is_number()) throw refusal(what + " must be a number");
    auto const value = x.get<double>();
    if (!(std::fabs(value) <= static_cast<double>(std::numeric_limits<T>::max())))
      throw refusal(what + " is out of range");
    return static_cast<T>(value);
  } else {
    if (!x.is_number_integer()) throw refusal(what + " must be a whole number");
    bool const fits = x.is_number_unsigned() ? std::in_range<T>(x.get<std::uint64_t>())
                                             : std::in_range<T>(x.get<std::int64_t>());
    if (!fits) throw refusal(what + " is out of range");
    return x.get<T>();
  }
}

/// "25%" of a length, as budget_for rounds.
index_t percent(std::string const& text, index_t of, std::string const& what) {
  double part = 0.0;
  int end = 0;
  if (std::sscanf(text.c_str(), "%lf %%%n", &part, &end) != 1 ||
      end != static_cast<int>(text.size()) || !(part > 0.0 && part <= 100.0))
    throw refusal(what + " must be a whole number or \"25%\", say");
  return kvslim::budget_for(part / 100.0, of);
}

template <class T>
void set_list(list_to<T> const& to, json const& x, std::string const& what) {
  if (!x.is_array()) throw refusal(what + " must be an array of numbers");
  to.values->clear();
  for (json const& one : x) to.values->push_back(number<T>(one, "every entry of " + what));
  *to.data = to.values->data();
}

void set(option const& o, json const& x, std::string const& what, problem const& p) {
  auto const counted = [&](index_t* to, index_t all) {
    *to = x == "all" ? all : number<index_t>(x, what);
  };
  std::visit(overloaded{
                 [&](bool* to) {
                   if (!x.is_boolean()) throw refusal(what + " must be true or false");
                   *to = x.get<bool>();
                 },
                 [&](tokens_to to) {
                   *to.value = x.is_string() ? percent(x.get<std::string>(), p.longest(), what)
                                             : number<index_t>(x, what);
                 },
                 [&](sequences_to to) { counted(to.value, p.data.extent.sequences); },
                 [&](heads_to to) { counted(to.value, p.data.extent.kv_heads); },
                 [&](choice_of const& to) {
                   auto const at = std::find(to.names.begin(), to.names.end(),
                                             x.is_string() ? x.get<std::string>() : std::string());
                   if (at == to.names.end())
                     throw refusal(what + " must be one of " + listed(to.names));
                   to.set(static_cast<std::size_t>(at - to.names.begin()));
                 },
                 [&]<class T>(list_to<T> const& to) { set_list(to, x, what); },
                 [&]<class T>(T* to) { *to = number<T>(x, what); },
             },
             o.to);
}

/// A list whose length the other options fix.
void check_lists(method const& m) {
  for (option const& o : m.options)
    std::visit(overloaded{[&]<class T>(list_to<T> const& to) {
                            if (*to.data != nullptr && std::ssize(*to.values) != to.size())
                              throw refusal(m.name + "'s " + o.name + " has " +
                                            std::to_string(to.values->size()) +
                                            " entries, it needs layers * kv_heads");
                          },
                          [](auto const&) {}},
               o.to);
}

json value_of(option const& o) {
  return std::visit(overloaded{
                        [](tokens_to to) { return json(*to.value); },
                        [](sequences_to to) { return json(*to.value); },
                        [](heads_to to) { return json(*to.value); },
                        [](choice_of const& to) { return json(to.names[to.get()]); },
                        []<class T>(list_to<T> const& to) { return json(*to.values); },
                        // The shortest decimal of a float, not the double that it is.
                        [](float* to) {
                          char text[64];
                          return json::parse(text,
                                             std::to_chars(text, text + sizeof text, *to).ptr);
                        },
                        []<class T>(T* to) { return json(*to); },
                    },
                    o.to);
}

/// {"name": ..., "options": {...}}, or a name alone.
template <class Stage>
Stage const* pick(table<Stage> const& all, json const& settings, char const* stage,
                  problem const& p) {
  auto const found = settings.find(stage);
  if (found == settings.end() || found->is_null()) return nullptr;
  json given = *found;
  if (given.is_string()) given = {{"name", given}};
  std::string const where = std::string("\"") + stage + "\"";
  if (!given.is_object() || !given.contains("name") || !given["name"].is_string())
    throw refusal(where + " must be a name, or an object with a name and options");
  for (auto const& [key, x] : given.items())
    if (key != "name" && key != "options")
      throw refusal(where + " has a member " + key + ": it takes a name and options");
  auto const name = given["name"].get<std::string>();
  auto const one = std::find_if(all.begin(), all.end(), [&](auto& m) { return m->name == name; });
  if (one == all.end())
    throw refusal("there is no method " + name + " for " + where + ": there are " +
                  listed(names_of(all)));
  Stage const& m = **one;
  for (option const& o : m.options)  // where nothing else makes sense
    if (auto const* const to = std::get_if<heads_to>(&o.to)) *to->value = p.data.extent.kv_heads;
  json const options = given.value("options", json::object());
  if (!options.is_object()) throw refusal("the options of " + name + " must be an object");
  for (auto const& [key, x] : options.items()) {
    auto const o =
        std::find_if(m.options.begin(), m.options.end(),
                     [&, &wanted = key](option const& each) { return each.name == wanted; });
    if (o == m.options.end())
      throw refusal(name + " has no option " + key + ": it has " + listed(names_of(m.options)));
    set(*o, x, name + "'s " + key, p);
  }
  check_lists(m);
  return &m;
}

/// Sets `options` from an object of a stage that is no method.
void assign(options const& all, json const& settings, char const* stage, problem const& p) {
  auto const found = settings.find(stage);
  if (found == settings.end() || found->is_null()) return;
  if (!found->is_object()) throw refusal(std::string("\"") + stage + "\" must be an object");
  for (auto const& [key, x] : found->items()) {
    auto const o = std::find_if(all.begin(), all.end(), [&, &wanted = key](option const& each) {
      return each.name == wanted;
    });
    if (o == all.end())
      throw refusal(std::string(stage) + " has no option " + key + ": it has " +
                    listed(names_of(all)));
    set(*o, x, std::string(stage) + "'s " + key, p);
  }
}

/// Options of `shared` and `logit`, which belong to no method.
options shared_options(sharing& by) {
  return {{"sequences", sequences_to{&by.rows.sequences}, "consecutive ones that keep one set"},
          {"kv_heads", heads_to{&by.rows.kv_heads}, "likewise"},
          {"how", choice(by.how, {"mean", "sum", "maximum"}), "scores are reduced"},
          {"leads", &by.leads, "only the first sequence of a group has a say"}};
}
options logit_options(kvslim::logit_rule& rule) {
  return {{"scale", &rule.scale, "before q . k; 0: 1 / sqrt(head_dim)"},
          {"soft_cap", &rule.soft_cap, "cap * tanh(x / cap); 0: none"}};
}

void list_options(options const& all, std::string& text) {
  for (option const& o : all) {
    std::string line = "    " + o.name + " = ";
    line += std::holds_alternative<heads_to>(o.to) ? "\"all\"" : value_of(o).dump();
    if (auto const* const to = std::get_if<choice_of>(&o.to)) {
      auto others = to->names;
      others.erase(others.begin() + static_cast<std::ptrdiff_t>(to->get()));
      line += " (or " + listed(others) + ")";
    }
    line.resize(std::max<std::size_t>(line.size() + 2, 32), ' ');
    text += line + o.note + '\n';
  }
}

template <class Stage>
void list_stage(table<Stage> const& all, char const* stage, std::string& text) {
  text += std::string(stage) + '\n';
  for (auto const& m : all) {
    std::string line = "  " + m->name;
    line.resize(std::max<std::size_t>(line.size() + 2, 20), ' ');
    text += line + m->what + (m->source == "-" ? "" : "; " + m->source) + '\n';
    list_options(m->options, text);
  }
}

}  // namespace

json described(method const* m) {
  if (m == nullptr) return nullptr;
  json all = json::object();
  for (option const& o : m->options) all[o.name] = value_of(o);
  return {{"name", m->name}, {"options", all}};
}
json described(sharing by) {
  json out = json::object();
  for (option const& o : shared_options(by)) out[o.name] = value_of(o);
  return out;
}

kvslim::presets::scale scale_of(std::string const& budget, problem const& p) {
  std::string const given = budget.empty() ? "25%" : budget;
  json const number = json::parse(given, nullptr, false);
  return {.budget = number.is_number_integer() ? example::number<index_t>(number, "--budget")
                                               : percent(given, p.longest(), "--budget"),
          .layers = p.data.extent.sequences,
          .kv_heads = p.data.extent.kv_heads};
}

methods::methods() = default;

chosen methods::choose(json const& settings, problem& p) {
  static std::vector<std::string> const stages{"score",  "rescore", "other", "shared",
                                               "select", "keep",    "merge", "reposition",
                                               "quant",  "index",   "logit"};
  if (!settings.is_object()) throw refusal("the settings must be an object");
  for (auto const& [key, x] : settings.items())
    if (std::find(stages.begin(), stages.end(), key) == stages.end())
      throw refusal("there is no stage " + key + ": there are " + listed(stages));
  chosen c;
  c.scorer = pick(scorers_, settings, "score", p);
  c.rescorer = pick(rescorers_, settings, "rescore", p);
  c.other = pick(others_, settings, "other", p);
  bool const two = c.rescorer != nullptr && c.rescorer->takes_two();
  if (two && c.other == nullptr)
    throw refusal(c.rescorer->name + " needs a second scorer: name a method with \"other\"");
  if (c.other != nullptr && !two)
    throw refusal("\"other\" is the second scorer of blend: name it with \"rescore\"");
  c.quota = pick(quotas_, settings, "select", p);
  c.keep = pick(keep_rules_, settings, "keep", p);
  c.merger = pick(mergers_, settings, "merge", p);
  c.mover = pick(movers_, settings, "reposition", p);
  c.codec = pick(codecs_, settings, "quant", p);
  c.index = pick(indices_, settings, "index", p);
  if (c.index != nullptr && !p.asked.given() && !p.window.given())
    throw refusal("an index needs queries or q, which the file lacks");
  if (c.codec == nullptr) c.codec = codecs_.front().get();
  if (c.keep == nullptr)
    c.keep = keep_rules_.front().get();
  else if (c.quota == nullptr)
    throw refusal("a keep rule needs a quota: name one with \"select\"");
  if (c.quota != nullptr && c.scorer == nullptr)
    throw refusal("a quota needs scores: name a method with \"score\"");
  if (c.quota != nullptr && c.quota->reads_statistics() && !c.scorer->states_statistics())
    throw refusal(c.quota->name + " reads statistics of rows that " + c.scorer->name +
                  " does not state: score with cake_scores");
  if (c.rescorer != nullptr && c.scorer == nullptr)
    throw refusal(c.rescorer->name + " needs scores: name a method with \"score\"");
  if (c.merger != nullptr && c.scorer == nullptr)
    throw refusal("a merger needs scores: name a method with \"score\"");
  if (settings.contains("shared") && !settings["shared"].is_null()) {
    if (c.scorer == nullptr) throw refusal("\"shared\" needs scores: name a method with \"score\"");
    c.shared = sharing{{1, p.data.extent.kv_heads}};
    assign(shared_options(*c.shared), settings, "shared", p);
  }
  assign(logit_options(p.logit), settings, "logit", p);
  return c;
}

json methods::resolved(chosen const& c, problem const& p) const {
  json out = json::object();
  if (c.scorer != nullptr) out["score"] = described(c.scorer);
  if (c.rescorer != nullptr) out["rescore"] = described(c.rescorer);
  if (c.other != nullptr) out["other"] = described(c.other);
  if (c.shared) out["shared"] = described(*c.shared);
  if (c.quota != nullptr) {
    out["select"] = described(c.quota);
    if (c.keep != keep_rules_.front().get()) out["keep"] = described(c.keep);
  }
  if (c.merger != nullptr) out["merge"] = described(c.merger);
  if (c.mover != nullptr) out["reposition"] = described(c.mover);
  out["quant"] = described(c.codec);
  if (c.index != nullptr) out["index"] = described(c.index);
  auto rule = p.logit;
  if (!(rule == kvslim::logit_rule{}))
    for (option const& o : logit_options(rule)) out["logit"][o.name] = value_of(o);
  return out;
}

std::string methods::list() const {
  std::string text;
  list_stage(scorers_, "score", text);
  list_stage(rescorers_, "rescore: what wraps a scorer", text);
  sharing by;
  text += "shared: rows that keep one set\n";
  list_options(shared_options(by), text);
  list_stage(quotas_, "select", text);
  list_stage(keep_rules_, "keep", text);
  list_stage(mergers_, "merge", text);
  list_stage(movers_, "reposition", text);
  list_stage(codecs_, "quant", text);
  list_stage(indices_, "index", text);
  kvslim::logit_rule rule{};
  text += "logit: how q . k becomes a logit\n";
  list_options(logit_options(rule), text);
  text += list_presets();
  return text;
}

json parse(std::string const& text, std::string const& where) {
  json out = json::parse(text, nullptr, false);
  if (out.is_discarded()) throw refusal(where + " is not JSON");
  return out;
}

}  // namespace example
