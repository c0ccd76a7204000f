// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "compare/report.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <optional>
#include <sstream>

namespace example {

namespace {

constexpr std::array kinds{family::quantized, family::evicted,  family::evicted_while_decoding,
                           family::merged,    family::low_rank, family::combined};

/// Lengths in units of a small letter, so that a label's box is known: the plot's inside is about
/// 95 letters wide and 32 lines high.
constexpr double letters = 95, lines = 32;

/// Both axes of the plot, logarithmic.
struct axes {
  double most_ratio = 2, least_kl = 1, most_kl = 1e-9;

  explicit axes(std::vector<result> const& all) {
    for (std::size_t m = 1; m < all.size(); ++m) {
      most_ratio = std::max(most_ratio, all[m].ratio * 1.5);
      least_kl = std::min(least_kl, std::max(all[m].kl, 1e-9) / 2);
      most_kl = std::max(most_kl, all[m].kl * 2);
    }
  }
  [[nodiscard]] double x(double ratio) const {
    return std::log(ratio) / std::log(most_ratio) * letters;
  }
  [[nodiscard]] double y(double kl) const {
    return std::log(kl / least_kl) / std::log(most_kl / least_kl) * lines;
  }
  [[nodiscard]] double ratio(double x) const { return std::pow(most_ratio, x / letters); }
  [[nodiscard]] double kl(double y) const {
    return least_kl * std::pow(most_kl / least_kl, y / lines);
  }
};

struct box {
  double left, right, bottom, top;
  [[nodiscard]] bool meets(box const& o) const {
    return left < o.right && o.left < right && bottom < o.top && o.bottom < top;
  }
};

struct point {
  double x, y;
};
/// Whether no other method is both smaller and closer to the exact cache.
bool is_best(std::vector<result> const& all, std::size_t i) {
  return std::none_of(all.begin() + 1, all.end(), [&](result const& o) {
    return o.ratio >= all[i].ratio && o.kl <= all[i].kl &&
           (o.ratio > all[i].ratio || o.kl < all[i].kl);
  });
}

/// A free box for a label of that many letters, at most `most_away` lines from p; none if all of
/// that is taken.
std::optional<box> find_spot(point p, double width, double most_away,
                             std::vector<box> const& taken) {
  for (double away = 0.0; away <= most_away; away += 1.0)
    for (double up : {1.0, -1.0})
      for (double aside : {1.3, -1.3 - width, 1.3 + away, -1.3 - away - width,
                           std::min(-width / 2, letters - width - p.x)}) {
        double const left = p.x + aside, y = p.y + up * away;
        box const area{left, left + width, y - 0.5, y + 0.5};
        if (area.left < 0 || area.right > letters || area.bottom < 0 || area.top > lines) continue;
        if (std::none_of(taken.begin(), taken.end(), [&](box const& b) { return b.meets(area); }))
          return area;
      }
  return std::nullopt;
}

}  // namespace

void print_table(std::vector<method> const& list, std::vector<result> const& results) {
  std::printf("\n%-46s %10s %6s %10s %9s %9s %7s %7s %8s\n", "method", "stored B", "ratio",
              "peak B", "d bits/B", "KL nats", "seen", "unseen", "ms/token");
  for (std::size_t m = 0; m < list.size(); ++m) {
    auto const& r = results[m];
    std::printf("%-46s %10.0f %6.2f %10.0f %+9.4f %9.5f %4d/%-2d %4d/%-2d %8.2f\n",
                list[m].name.c_str(), r.stored_bytes, r.ratio, r.peak_bytes,
                r.bits_per_byte - results[0].bits_per_byte, r.kl, r.seen_right, r.asked,
                r.unseen_right, r.asked, r.decode_ms);
  }
}

void print_verdicts(std::vector<method> const& list, std::vector<result> const& results) {
  std::vector<std::size_t> best, worse;
  for (std::size_t m = 1; m < list.size(); ++m)
    if (is_best(results, m)) best.push_back(m);
  std::sort(best.begin(), best.end(),
            [&](auto a, auto b) { return results[a].ratio < results[b].ratio; });
  std::printf("\nNothing here is both smaller and closer to the exact cache than:\n");
  for (auto const m : best)
    std::printf("  %s: %.1f times smaller, KL %.5f\n", list[m].name.c_str(), results[m].ratio,
                results[m].kl);
  std::printf(
      "\nCloser at no more bytes (in KL: pass keys are in the table) is a baseline, random or most "
      "recent tokens, than:\n");
  auto const baseline = [](method const& x) {
    return x.kind == family::evicted && !x.name.ends_with("rerotated") &&
           (x.name.starts_with("Random") || x.name.starts_with("StreamingLLM"));
  };
  bool any = false;
  for (std::size_t m = 1; m < list.size(); ++m) {
    if (baseline(list[m])) continue;
    for (std::size_t b = 1; b < list.size(); ++b) {
      // Rounding budgets to whole tokens moves bytes by a hundredth.
      if (!baseline(list[b]) || results[b].ratio < 0.99 * results[m].ratio ||
          results[b].kl >= results[m].kl)
        continue;
      std::printf("  %s (%s: KL %.5f, here %.5f)\n", list[m].name.c_str(), list[b].name.c_str(),
                  results[b].kl, results[m].kl);
      any = true;
      break;
    }
  }
  if (!any) std::printf("  none\n");
}

std::vector<pairing> pairings(std::vector<method> const& list, std::vector<result> const& results) {
  std::vector<pairing> out;
  for (std::size_t m = 0; m < list.size(); ++m) {
    auto const other = std::find_if(list.begin(), list.end(),
                                    [&](method const& o) { return o.name == list[m].against; });
    if (other == list.end()) continue;
    auto const& a = results[m].text_kl;
    auto const& b = results[static_cast<std::size_t>(other - list.begin())].text_kl;
    auto const n = static_cast<double>(a.size());
    pairing pair{.row = m};
    for (std::size_t i = 0; i < a.size(); ++i) {
      pair.more += (a[i] - b[i]) / n;
      pair.texts_more += a[i] > b[i] ? 1 : 0;
    }
    double square = 0;
    for (std::size_t i = 0; i < a.size(); ++i) square += std::pow(a[i] - b[i] - pair.more, 2);
    pair.error = std::sqrt(square / (n * (n - 1)));
    out.push_back(pair);
  }
  return out;
}

void print_pairings(std::vector<method> const& list, std::vector<result> const& results) {
  auto const pairs = pairings(list, results);
  if (pairs.empty()) return;
  std::printf("\n%-32s %-16s %10s %10s %7s %10s\n", "KL of", "less that of", "difference",
              "std error", "errors", "texts more");
  for (auto const& pair : pairs)
    std::printf("%-32s %-16s %+10.5f %10.5f %+7.1f %6d/%d\n", list[pair.row].name.c_str(),
                list[pair.row].against.c_str(), pair.more, pair.error, pair.more / pair.error,
                pair.texts_more, static_cast<int>(results[pair.row].text_kl.size()));
}

nlohmann::json to_json(std::vector<method> const& list, std::vector<result> const& results) {
  nlohmann::json out;
  for (std::size_t m = 0; m < list.size(); ++m) {
    auto const& r = results[m];
    out.push_back(
        {{"method", list[m].name},
         {"stored_bytes", r.stored_bytes},
         {"ratio_to_f16", r.ratio},
         {"peak_bytes", r.peak_bytes},
         {"bits_per_byte", r.bits_per_byte},
         {"bits_per_byte_change", r.bits_per_byte - results[0].bits_per_byte},
         {"kl_nats", r.kl},
         {"pass_key_recall_question_seen", static_cast<double>(r.seen_right) / r.asked},
         {"pass_key_recall_question_unseen", static_cast<double>(r.unseen_right) / r.asked},
         {"decode_ms_per_token", r.decode_ms},
         {"compress_ms", r.compress_ms}});
  }
  for (auto const& pair : pairings(list, results))
    out[pair.row]["kl_against"] = {{"method", list[pair.row].against},
                                   {"difference", pair.more},
                                   {"standard_error", pair.error}};
  return out;
}

void write_plot_data(std::string const& path, std::vector<method> const& list,
                     std::vector<result> const& results) {
  std::ofstream out(path);
  axes const plot(results);
  std::vector<box> taken{{letters - 42, letters, 0, 8}, {0, 34, 0, 1.8}};  // the key, and a note
  std::vector<std::size_t> best, rest;
  auto const place = [&](std::size_t m) {
    return point{plot.x(results[m].ratio), plot.y(std::max(results[m].kl, plot.least_kl))};
  };
  for (std::size_t m = 1; m < list.size(); ++m) {
    auto const p = place(m);
    taken.push_back({p.x - 0.9, p.x + 0.9, p.y - 0.5, p.y + 0.5});
    (is_best(results, m) ? best : rest).push_back(m);
  }
  auto const write = [&](std::size_t m) {
    out << results[m].ratio << ' ' << std::max(results[m].kl, plot.least_kl) << '\n';
  };
  out << "# corners\n1 " << plot.least_kl << '\n' << plot.most_ratio << ' ' << plot.most_kl << '\n';
  for (family kind : kinds) {
    out << "\n\n# a family: ratio to f16, KL in nats\n";
    for (std::size_t m = 1; m < list.size(); ++m)
      if (list[m].kind == kind) write(m);
  }
  std::sort(best.begin(), best.end(),
            [&](std::size_t a, std::size_t b) { return results[a].ratio < results[b].ratio; });
  out << "\n\n# the best points\n";
  for (auto m : best) write(m);
  // Labels keep off that line.
  for (std::size_t i = 1; i < best.size(); ++i) {
    auto const a = place(best[i - 1]), b = place(best[i]);
    double const steps = std::ceil(2.0 * std::max(std::abs(b.x - a.x), std::abs(b.y - a.y)));
    for (double k = 0; k <= steps; k += 1.0) {
      double const x = a.x + (b.x - a.x) * k / steps, y = a.y + (b.y - a.y) * k / steps;
      taken.push_back({x - 0.3, x + 0.3, y - 0.2, y + 0.2});
    }
  }
  // The best points' labels first, the longest of them at the right, so that they find room; one
  // that finds none nearby is left out.
  std::reverse(best.begin(), best.end());
  best.insert(best.end(), rest.begin(), rest.end());
  std::ostringstream right_of_points, left_of_points, leaders;
  for (auto m : best) {
    auto const p = place(m);
    auto const found = find_spot(p, static_cast<double>(list[m].name.size()),
                                 is_best(results, m) ? 6.0 : 2.0, taken);
    if (!found) continue;
    taken.push_back(*found);
    bool const is_left = found->right < p.x;
    double const y = (found->bottom + found->top) / 2, x = is_left ? found->right : found->left;
    (is_left ? left_of_points : right_of_points)
        << plot.ratio(x) << ' ' << plot.kl(y) << " \"" << list[m].name << "\"\n";
    if (std::abs(y - p.y) > 1.2)
      leaders << results[m].ratio << ' ' << plot.kl(p.y) << '\n'
              << plot.ratio(std::clamp(p.x, found->left, found->right)) << ' '
              << plot.kl(y + (y > p.y ? -0.4 : 0.4)) << "\n\n";
  }
  out << "\n\n# labels, left-aligned\n" << right_of_points.str();
  out << "\n\n# labels, right-aligned\n" << left_of_points.str();
  out << "\n\n# from points to labels that lie apart\n" << leaders.str();
  if (!out) throw std::runtime_error("cannot write " + path);
}

}  // namespace example
