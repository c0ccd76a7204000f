// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "compare/report.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <optional>

namespace example {

namespace {

constexpr std::array kinds{family::quantized, family::evicted, family::evicted_while_decoding,
                           family::merged, family::combined};

/// Lengths in units of a small letter, so that a label's box is known: the plot is about 130
/// letters wide and 40 lines high.
constexpr double letters = 130, lines = 40;
constexpr double most_ratio = 10, least_kl = 3e-6, most_kl = 0.3;

struct box {
  double left, right, bottom, top;
  [[nodiscard]] bool meets(box const& o) const {
    return left < o.right && o.left < right && bottom < o.top && o.bottom < top;
  }
};

struct point {
  double x, y;
};
point place(result const& r) {
  double const kl = std::clamp(r.kl, least_kl, most_kl);
  return {std::log(r.ratio) / std::log(most_ratio) * letters,
          std::log(kl / least_kl) / std::log(most_kl / least_kl) * lines};
}

/// Whether no other method is both smaller and closer to the exact cache.
bool is_best(std::vector<result> const& all, std::size_t i) {
  return std::none_of(all.begin() + 1, all.end(), [&](result const& o) {
    return o.ratio >= all[i].ratio && o.kl <= all[i].kl &&
           (o.ratio > all[i].ratio || o.kl < all[i].kl);
  });
}

/// A free box for a label of that many letters near p; none if everything near it is taken.
struct spot {
  box area;
  double x, y;
  bool right_aligned;
};
std::optional<spot> find_spot(point p, double width, std::vector<box> const& taken) {
  for (double distance : {0.0, 1.0, 2.0, 3.0, 4.0})
    for (double up : {0.0, 1.0, -1.0})
      for (bool to_left : {false, true}) {
        double const x = to_left ? p.x - 1.2 : p.x + 1.2, y = p.y + up * (distance + 0.3);
        box const area{to_left ? x - width : x, to_left ? x : x + width, y - 0.5, y + 0.5};
        if (area.left < 0 || area.right > letters || area.bottom < 0 || area.top > lines) continue;
        if (std::none_of(taken.begin(), taken.end(), [&](box const& b) { return b.meets(area); }))
          return spot{area, x, y, to_left};
      }
  return std::nullopt;
}

}  // namespace

void print_table(std::vector<method> const& list, std::vector<result> const& results) {
  std::printf("\n%-36s %10s %6s %10s %9s %9s %7s %7s %8s\n", "method", "stored B", "ratio",
              "peak B", "d bits/B", "KL nats", "seen", "unseen", "ms/token");
  for (std::size_t m = 0; m < list.size(); ++m) {
    auto const& r = results[m];
    std::printf("%-36s %10.0f %6.2f %10.0f %+9.4f %9.5f %4d/%-2d %4d/%-2d %8.2f\n",
                list[m].name.c_str(), r.stored_bytes, r.ratio, r.peak_bytes,
                r.bits_per_byte - results[0].bits_per_byte, r.kl, r.seen_right, r.asked,
                r.unseen_right, r.asked, r.decode_ms);
  }
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
  return out;
}

void write_plot_data(std::string const& path, std::vector<method> const& list,
                     std::vector<result> const& results) {
  std::ofstream out(path);
  out << "# ratio to f16, KL in nats: one block per family, then the best points, then labels\n";
  std::vector<box> taken;
  std::vector<std::size_t> best;
  for (std::size_t m = 1; m < list.size(); ++m) {
    auto const p = place(results[m]);
    taken.push_back({p.x - 0.7, p.x + 0.7, p.y - 0.4, p.y + 0.4});
    if (is_best(results, m)) best.push_back(m);
  }
  auto const line = [&](std::size_t m) {
    out << results[m].ratio << ' ' << std::clamp(results[m].kl, least_kl, most_kl);
  };
  for (family kind : kinds) {
    for (std::size_t m = 1; m < list.size(); ++m)
      if (list[m].kind == kind) line(m), out << '\n';
    out << "\n\n";
  }
  std::sort(best.begin(), best.end(),
            [&](std::size_t a, std::size_t b) { return results[a].ratio < results[b].ratio; });
  for (auto m : best) line(m), out << '\n';
  out << "\n\n";
  // Labels of the best points first, so that they find room; one that finds none is left out.
  std::vector<std::size_t> order(best);
  for (std::size_t m = 1; m < list.size(); ++m)
    if (std::find(best.begin(), best.end(), m) == best.end()) order.push_back(m);
  for (auto m : order) {
    auto const found =
        find_spot(place(results[m]), static_cast<double>(list[m].name.size()), taken);
    if (!found) continue;
    taken.push_back(found->area);
    double const left = found->right_aligned ? found->area.left : found->x;
    out << std::pow(most_ratio, left / letters) << ' '
        << least_kl * std::pow(most_kl / least_kl, found->y / lines) << " \"" << list[m].name
        << "\"\n";
  }
  if (!out) throw std::runtime_error("cannot write " + path);
}

}  // namespace example
