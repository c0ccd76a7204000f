// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// attend() with every field of its request, against float64 over the decoded cache.

#include "life/dice.hpp"

#include <algorithm>
#include <cmath>

namespace life {

/// One row's held tokens, decoded.
struct decoded_row {
  std::vector<index_t> slots;
  std::vector<std::int32_t> positions;
  std::vector<double> k, v, bias;
};

template <class Packed>
decoded_row decode_row(Packed const& packed, index_t r) {
  auto const& e = packed.extents();
  decoded_row out;
  auto const keys = packed.keys(r);
  auto const values = packed.values(r);
  std::vector<float> channels(at(std::max(e.head_dim, e.value_width())));
  for (index_t slot = 0; slot < packed.raw_row(r).slots; ++slot) {
    std::int32_t const p = packed.position(r / e.kv_heads, r % e.kv_heads, slot);
    if (p == kvslim::empty_slot) continue;
    out.slots.push_back(slot);
    out.positions.push_back(p);
    out.bias.push_back(packed.logit_bias(r, slot));
    keys.load(slot, channels.data());
    out.k.insert(out.k.end(), channels.begin(), channels.begin() + e.head_dim);
    values.load(slot, channels.data());
    out.v.insert(out.v.end(), channels.begin(), channels.begin() + e.value_width());
  }
  return out;
}

/// A request and the memory it names.
struct asked {
  kvslim::attend_request<> a;
  std::vector<float> q, out, lse, logits, sinks;  // q as the element type holds it
  std::vector<kvslim::f16> q16, out16;
  std::vector<std::int32_t> positions, spans, counts;
  std::vector<std::uint8_t> active;
  memory scratch;
  bool half = false;
  static constexpr float untouched = -77.0f;

  [[nodiscard]] float get(index_t i) const {
    return half ? kvslim::to_float(out16[at(i)]) : out[at(i)];
  }
};

template <class Packed>
void draw_request(dice& d, Packed const& packed, index_t group, asked& x, bool simple) {
  auto const& e = packed.extents();
  auto& a = x.a;
  index_t const first = simple ? 0 : d.in(0, e.sequences - 1);
  index_t const sequences = simple ? e.sequences : d.in(1, e.sequences - first);
  index_t const heads = e.kv_heads * group, n = !simple && d.one_in(3) ? d.in(2, 3) : 1;
  index_t const count = sequences * heads * n;
  index_t most = 1;
  for (index_t r = 0; r < e.rows(); ++r) most = std::max<index_t>(most, packed.raw_row(r).slots);
  float const spread = d.one_in(5) ? 6.0f : 1.0f;
  x.half = !simple && d.one_in(4);
  for (index_t i = 0; i < count * e.head_dim; ++i) {
    float const y = spread * d.normal();
    x.q.push_back(x.half ? rounded<kvslim::f16>(y) : y);
    x.q16.push_back(kvslim::from_float<kvslim::f16>(y));
  }
  x.out.assign(at(count * e.value_width()), asked::untouched);
  x.out16.assign(x.out.size(), kvslim::from_float<kvslim::f16>(asked::untouched));
  x.lse.assign(at(count), asked::untouched);
  kvslim::rows_shape const shape{sequences, heads, n, e.head_dim};
  kvslim::rows_shape const wide{sequences, heads, n, e.value_width()};
  if (x.half) {
    a.q = kvslim::rows<>(
        kvslim::dense_rows<kvslim::host_space, kvslim::f16 const>(x.q16.data(), shape));
    a.out = kvslim::dense_rows(x.out16.data(), wide);
  } else {
    a.q = kvslim::rows<>(kvslim::dense_rows<kvslim::host_space, float const>(x.q.data(), shape));
    a.out = kvslim::dense_rows(x.out.data(), wide);
  }
  a.lse = x.lse.data();
  a.first_sequence = first;
  if (simple || d.one_in(2)) {
    a.logits_stride = most + d.small(5);
    x.logits.assign(at(count * a.logits_stride), asked::untouched);
    a.logits = x.logits.data();
  }
  if (simple) return;
  if (d.one_in(3)) {
    for (index_t i = 0; i < sequences * n; ++i)
      x.positions.push_back(static_cast<std::int32_t>(d.in(0, 2 * most)));
    a.positions = x.positions.data();
  }
  if (d.one_in(3)) {
    for (index_t i = 0; i < sequences; ++i) x.active.push_back(d.one_in(2) ? 1 : 0);
    a.active = x.active.data();
  }
  if (d.one_in(3)) a.window = d.one_in(5) ? (index_t{1} << 62) : d.in(1, most);
  if (d.one_in(3)) {
    for (index_t i = 0; i < heads; ++i) x.sinks.push_back(3.0f * d.normal());
    a.sink_logits = x.sinks.data();
  }
  if (d.one_in(4)) {
    a.visible.most = d.in(1, 3);
    for (index_t r = 0; r < e.rows(); ++r) {
      x.counts.push_back(static_cast<std::int32_t>(d.in(0, a.visible.most)));
      std::int32_t from = 0;
      for (index_t i = 0; i < 2 * a.visible.most; ++i) {
        from = static_cast<std::int32_t>(
            std::min<index_t>(packed.raw_row(r).slots, from + d.in(0, most / 2)));
        x.spans.push_back(from);
      }
    }
    a.visible.begin_end = x.spans.data();
    a.visible.counts = x.counts.data();
  }
  a.base2 = d.one_in(4);
  if (d.one_in(2)) {
    a.splits = d.one_in(2) ? 1 : d.in(2, 5);
    x.scratch = memory(kvslim::attend_bytes(packed.layout(), heads, n, a.splits));
  }
}

/// What one query should see, in float64.
struct expected {
  std::vector<double> out;
  double lse = -INFINITY, magnitude = 0.0, largest = 0.0;  // of the logits' terms, and of V
};

inline expected attention(decoded_row const& row, std::vector<bool> const& sees, double const* q,
                          index_t dim, index_t width, double scale, double cap, double sink) {
  expected x;
  x.out.assign(at(width), 0.0);
  std::vector<double> logit(row.slots.size(), -INFINITY);
  double high = sink;
  for (std::size_t i = 0; i < row.slots.size(); ++i) {
    if (!sees[i]) continue;
    double dot = 0.0, terms = 0.0;
    for (index_t d = 0; d < dim; ++d) {
      double const term = q[d] * row.k[i * at(dim) + at(d)];
      dot += term;
      terms += std::abs(term);
    }
    double y = dot * scale;
    if (cap > 0.0) y = cap * std::tanh(y / cap);
    logit[i] = y + row.bias[i];
    if (logit[i] > -INFINITY)
      x.magnitude = std::max(x.magnitude, terms * scale + std::abs(row.bias[i]));
    high = std::max(high, logit[i]);
  }
  double total = sink > -INFINITY ? std::exp(sink - high) : 0.0;
  for (std::size_t i = 0; i < row.slots.size(); ++i) {
    if (logit[i] == -INFINITY) continue;
    double const p = std::exp(logit[i] - high);
    total += p;
    for (index_t d = 0; d < width; ++d) {
      double const y = row.v[i * at(width) + at(d)];
      x.out[at(d)] += p * y;
      x.largest = std::max(x.largest, std::abs(y));
    }
  }
  if (total > 0.0) x.lse = high + std::log(total);
  for (double& y : x.out) y = total > 0.0 ? y / total : 0.0;
  return x;
}

/// Asks and compares. `simple`: one query that sees everything, with logits (for observe).
template <class Packed>
void check_attend(dice& d, Packed const& packed, index_t group, asked& x, bool simple = false) {
  auto const& e = packed.extents();
  draw_request(d, packed, group, x, simple);
  auto const& a = x.a;
  LIFE_OK(kvslim::attend(
      kvslim::cpu{}, packed, a,
      kvslim::workspace{x.scratch.size() == 0 ? nullptr : x.scratch.data(), x.scratch.size()}));
  auto const rule = packed.layout().logit;
  double const scale = rule.scale > 0.0f ? rule.scale : 1.0 / std::sqrt(double(e.head_dim));
  index_t const width = e.value_width(), n = a.q.tokens;
  for (index_t s = 0; s < a.q.sequences; ++s)
    for (index_t h = 0; h < e.kv_heads; ++h) {
      index_t const r = (a.first_sequence + s) * e.kv_heads + h;
      bool const idle = a.active != nullptr && a.active[s] == 0;
      auto const row = idle ? decoded_row{} : decode_row(packed, r);
      for (index_t g = 0; g < group * n; ++g) {
        index_t const q_head = h * group + g / n, t = g % n;
        index_t const i = (s * a.q.heads + q_head) * n + t;
        if (idle) {
          LIFE_CHECK(x.lse[at(i)] == asked::untouched && x.get(i * width) == asked::untouched);
          continue;
        }
        std::int32_t const own = a.positions != nullptr ? a.positions[s * n + t]
                                                        : packed.raw_row(r).next_position -
                                                              static_cast<std::int32_t>(n - t);
        std::vector<bool> sees;
        for (std::size_t j = 0; j < row.slots.size(); ++j) {
          bool inside = a.visible.begin_end == nullptr;
          for (index_t w = 0; !inside && w < a.visible.counts[r]; ++w) {
            std::int32_t const* const span = a.visible.begin_end + (r * a.visible.most + w) * 2;
            inside = row.slots[j] >= span[0] && row.slots[j] < span[1];
          }
          sees.push_back(inside && row.positions[j] <= own &&
                         (a.window == 0 || row.positions[j] > own - a.window));
        }
        std::vector<double> q;
        for (index_t c = 0; c < e.head_dim; ++c) q.push_back(x.q[at(i * e.head_dim + c)]);
        double const sink = a.sink_logits == nullptr ? -INFINITY : a.sink_logits[q_head];
        auto const want =
            attention(row, sees, q.data(), e.head_dim, width, scale, rule.soft_cap, sink);
        double error = 0.0, norm = 0.0;
        for (index_t c = 0; c < width; ++c) {
          double const got = x.get(i * width + c);
          LIFE_CHECK(std::isfinite(got));
          error += (got - want.out[at(c)]) * (got - want.out[at(c)]);
          norm += want.out[at(c)] * want.out[at(c)];
        }
        // Logits carry a few float roundings of their terms, probabilities as many more relatively.
        double const slack = (x.half ? 1e-3 : 2e-5) + 1e-6 * want.magnitude;
        LIFE_CHECK(std::sqrt(error) <=
                   slack * (std::sqrt(norm) + want.largest * std::sqrt(double(width))) +
                       (x.half ? 1e-7 : 1e-30));
        double const lse = a.base2 ? x.lse[at(i)] / std::log2(std::exp(1.0)) : x.lse[at(i)];
        if (want.lse == -INFINITY)
          LIFE_CHECK(lse == -INFINITY);
        else
          LIFE_CHECK(std::abs(lse - want.lse) <=
                     2e-5 + 2e-6 * (want.magnitude + std::abs(want.lse)));
      }
    }
}

}  // namespace life
