// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Naive double-precision references, written from the method cards. They share no code with
// include/.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

namespace reference {

using matrix = std::vector<std::vector<double>>;  // [token][channel]

inline double dot(std::vector<double> const& a, std::vector<double> const& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

/// Softmax attention of one query; `bias` per key may be empty.
struct attention_result {
  std::vector<double> out;
  double lse;
};
inline attention_result attention(std::vector<double> const& q, matrix const& k, matrix const& v,
                                  std::vector<double> const& bias = {}) {
  std::vector<double> logit;
  for (std::size_t t = 0; t < k.size(); ++t)
    logit.push_back(dot(q, k[t]) / std::sqrt(static_cast<double>(q.size())) +
                    (bias.empty() ? 0.0 : bias[t]));
  double const most = *std::max_element(logit.begin(), logit.end());
  double total = 0;
  for (double& x : logit) total += x = std::exp(x - most);
  attention_result r{std::vector<double>(v[0].size()), most + std::log(total)};
  for (std::size_t t = 0; t < k.size(); ++t)
    for (std::size_t d = 0; d < r.out.size(); ++d) r.out[d] += logit[t] / total * v[t][d];
  return r;
}

/// SnapKV: queries [q_head][window][channel] of one KV head's group; scores of the prefix.
enum class reduce { mean, maximum, sum };
inline std::vector<double> snapkv(std::vector<matrix> const& queries, matrix const& k, int kernel,
                                  bool max_pool, reduce how, double scale = 0, double cap = 0) {
  std::size_t const window = queries[0].size(), prefix = k.size() - window;
  if (scale == 0) scale = 1 / std::sqrt(static_cast<double>(k[0].size()));
  std::vector<double> result(prefix, how == reduce::maximum ? -1.0 : 0.0);
  for (auto const& head : queries) {
    std::vector<double> mass(prefix, 0.0);
    for (std::size_t w = 0; w < window; ++w) {
      std::vector<double> p(prefix + w + 1);
      for (std::size_t t = 0; t < p.size(); ++t) {
        p[t] = dot(head[w], k[t]) * scale;
        if (cap > 0) p[t] = cap * std::tanh(p[t] / cap);
      }
      double const most = *std::max_element(p.begin(), p.end());
      double total = 0;
      for (double& x : p) total += x = std::exp(x - most);
      for (std::size_t t = 0; t < prefix; ++t)
        mass[t] += p[t] / total / static_cast<double>(window);
    }
    for (std::size_t t = 0; t < prefix; ++t) {
      double sum = 0, most = 0;
      for (int o = -kernel / 2; o <= kernel / 2; ++o) {
        auto const at = static_cast<std::ptrdiff_t>(t) + o;
        if (at < 0 || at >= static_cast<std::ptrdiff_t>(prefix)) continue;
        sum += mass[static_cast<std::size_t>(at)];
        most = std::max(most, mass[static_cast<std::size_t>(at)]);
      }
      double const pooled = max_pool ? most : sum / kernel;
      if (how == reduce::maximum) result[t] = std::max(result[t], pooled);
      if (how == reduce::sum) result[t] += pooled;
      if (how == reduce::mean) result[t] += pooled / static_cast<double>(queries.size());
    }
  }
  return result;
}

/// Indices of the `budget` best: sinks, then newest, then by (score descending, index ascending),
/// NaN last; ascending.
inline std::vector<std::int64_t> keep(std::vector<double> const& score, std::int64_t budget,
                                      std::int64_t sinks, std::int64_t recent) {
  auto const n = static_cast<std::int64_t>(score.size());
  std::vector<std::int64_t> order;
  for (std::int64_t t = 0; t < std::min(sinks, n); ++t) order.push_back(t);
  for (std::int64_t t = n - 1; t >= std::max<std::int64_t>(sinks, n - recent); --t)
    order.push_back(t);
  std::vector<std::int64_t> rest;
  for (std::int64_t t = std::min(sinks, n); t < n - recent; ++t) rest.push_back(t);
  std::stable_sort(rest.begin(), rest.end(), [&](auto a, auto b) {
    double const x = score[static_cast<std::size_t>(a)], y = score[static_cast<std::size_t>(b)];
    if (std::isnan(x) || std::isnan(y)) return !std::isnan(x) && std::isnan(y);
    return x > y;
  });
  order.insert(order.end(), rest.begin(), rest.end());
  order.resize(static_cast<std::size_t>(std::min(budget, n)));
  std::sort(order.begin(), order.end());
  return order;
}

/// KVMerger without a selector: runs of consecutive unprotected tokens whose neighbours have cosine
/// > threshold. With logit biases a token weighs exp(bias) times as much, and one of -inf is a
/// pivot only among its like.
struct merged {
  std::vector<std::int64_t> pivots;
  std::vector<std::int64_t> members;
  std::vector<double> mass;  // sum of exp(bias)
  matrix k, v;
};
inline double cosine(std::vector<double> const& a, std::vector<double> const& b) {
  return dot(a, b) / std::sqrt(dot(a, a) * dot(b, b));
}
inline merged kvmerger(matrix const& k, matrix const& v, std::vector<double> const& score,
                       std::vector<bool> const& fixed, double threshold, double sigma,
                       std::vector<double> const& bias = {}) {
  merged out;
  std::size_t const n = k.size();
  auto const own = [&](std::size_t i) { return bias.empty() ? 1.0 : std::exp(bias[i]); };
  for (std::size_t begin = 0; begin < n;) {
    std::size_t end = begin + 1;
    while (end < n && !fixed[end - 1] && !fixed[end] && cosine(k[end - 1], k[end]) > threshold)
      ++end;
    std::size_t pivot = begin;
    for (std::size_t i = begin; i < end; ++i)
      if (own(i) > 0 ? own(pivot) == 0 || score[i] > score[pivot]
                     : own(pivot) == 0 && score[i] > score[pivot])
        pivot = i;
    auto const count = static_cast<double>(end - begin);
    auto const d2 = [&](std::size_t i) {
      double s = 0;
      for (std::size_t d = 0; d < k[i].size(); ++d)
        s += (k[i][d] - k[pivot][d]) * (k[i][d] - k[pivot][d]);
      return s;
    };
    double width = sigma;
    if (sigma == 0.0) {
      double mean = 0, g = 0;
      for (std::size_t i = begin; i < end; ++i) mean += d2(i) / count;
      if (mean > 0)
        for (std::size_t i = begin; i < end; ++i) g += std::exp(-d2(i) / (2 * mean));
      width = g / (std::sqrt(2.0) * count);
    }
    std::vector<double> mk(k[0].size()), mv(k[0].size());
    double total = 0, mass = 0;
    for (std::size_t i = begin; i < end; ++i) {
      double const w = (width > 0 ? std::exp(-d2(i) / (2 * width * width)) : 1.0) * own(i);
      total += w;
      mass += own(i);
      for (std::size_t d = 0; d < mk.size(); ++d) {
        mk[d] += w * k[i][d];
        mv[d] += w * v[i][d];
      }
    }
    for (std::size_t d = 0; d < mk.size(); ++d) {
      mk[d] /= total;
      mv[d] /= total;
    }
    out.pivots.push_back(static_cast<std::int64_t>(pivot));
    out.members.push_back(static_cast<std::int64_t>(end - begin));
    out.mass.push_back(mass);
    out.k.push_back(mk);
    out.v.push_back(mv);
    begin = end;
  }
  return out;
}

/// Affine group of values: largest allowed error of any code is half a step.
struct group {
  double low, step;
};
inline group affine(std::vector<double> const& x, int bits) {
  auto const [lo, hi] = std::minmax_element(x.begin(), x.end());
  return {*lo, (*hi - *lo) / ((1 << bits) - 1)};
}

/// RoPE of one row by `position`, angles base^(-2i/n), in double.
inline std::vector<double> rope(std::vector<double> x, double base, std::size_t n, bool interleaved,
                                double position) {
  for (std::size_t i = 0; i < n / 2; ++i) {
    double const angle =
        position * std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(n));
    std::size_t const a = interleaved ? 2 * i : i, b = interleaved ? 2 * i + 1 : i + n / 2;
    double const p = x[a], q = x[b];
    x[a] = p * std::cos(angle) - q * std::sin(angle);
    x[b] = p * std::sin(angle) + q * std::cos(angle);
  }
  return x;
}

}  // namespace reference
