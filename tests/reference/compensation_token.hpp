// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "reference.hpp"

namespace reference {

struct compensated {
  matrix k, v;               // of what is kept, in text order
  std::vector<double> mass;  // tokens that each row stands for
};

/// RazorAttention's non-retrieval head: `kept` tokens in text order, one of which, `place`, holds
/// the mean of itself and all that is dropped. Tokens weigh `mass`.
inline compensated compensation_token(matrix const& k, matrix const& v,
                                      std::vector<double> const& mass,
                                      std::vector<std::size_t> const& kept, std::size_t place) {
  compensated out;
  std::vector<double> key(k[place].size()), value(v[place].size());
  double dropped = 0;
  for (std::size_t t = 0; t < k.size(); ++t) {
    bool const stays = std::find(kept.begin(), kept.end(), t) != kept.end();
    if (stays && t != place) continue;
    dropped += mass[t];
    for (std::size_t d = 0; d < key.size(); ++d) key[d] += mass[t] * k[t][d];
    for (std::size_t d = 0; d < value.size(); ++d) value[d] += mass[t] * v[t][d];
  }
  for (double& x : key) x /= dropped;
  for (double& x : value) x /= dropped;
  for (std::size_t t : kept) {
    out.k.push_back(t == place ? key : k[t]);
    out.v.push_back(t == place ? value : v[t]);
    out.mass.push_back(t == place ? dropped : mass[t]);
  }
  return out;
}

/// The paper's attention: exp() of the compensation token's logit is multiplied by the number of
/// dropped tokens.
inline std::vector<double> razor_attention(std::vector<double> const& q, compensated const& x) {
  std::vector<double> out(x.v[0].size());
  double sum = 0;
  for (std::size_t i = 0; i < x.k.size(); ++i) {
    double const p =
        x.mass[i] * std::exp(dot(q, x.k[i]) / std::sqrt(static_cast<double>(q.size())));
    sum += p;
    for (std::size_t d = 0; d < out.size(); ++d) out[d] += p * x.v[i][d];
  }
  for (double& y : out) y /= sum;
  return out;
}

}  // namespace reference
