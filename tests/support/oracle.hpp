// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Glue between seeded data and the references, and attention in double over what a packed cache
// decodes to.

#include "data.hpp"
#include "reference/reference.hpp"

#include <limits>
#include <optional>

namespace oracle {

using data::index_t;

inline reference::matrix keys(data::cache const& c, index_t s, index_t h, index_t count = -1) {
  reference::matrix m;
  for (index_t t = 0; t < (count < 0 ? c.shape.tokens : count); ++t) {
    m.emplace_back();
    for (index_t d = 0; d < c.shape.head_dim; ++d) m.back().push_back(c.key(s, h, t, d));
  }
  return m;
}
inline reference::matrix values(data::cache const& c, index_t s, index_t h, index_t count = -1) {
  reference::matrix m;
  for (index_t t = 0; t < (count < 0 ? c.shape.tokens : count); ++t) {
    m.emplace_back();
    for (index_t d = 0; d < c.shape.value_width(); ++d) m.back().push_back(c.value(s, h, t, d));
  }
  return m;
}
inline std::vector<reference::matrix> window(data::cache const& c, index_t s, index_t h,
                                             index_t n) {
  std::vector<reference::matrix> heads;
  auto const view = c.queries(n);
  for (index_t g = 0; g < c.shape.group; ++g) {
    heads.emplace_back();
    for (index_t w = 0; w < n; ++w) {
      float const* const row = view.row(s, h * c.shape.group + g, w);
      heads.back().emplace_back(row, row + c.shape.head_dim);
    }
  }
  return heads;
}

/// What attention gives to one query of one head.
struct answer {
  std::vector<double> out;
  double lse;
  std::vector<double> logits;  // by slot; -inf: not seen
};

/// Whether the request's query t of sequence s (of the request) sees a slot.
template <class Packed>
bool sees(Packed const& packed, kvslim::attend_request<> const& a, index_t s, index_t r, index_t t,
          index_t slot) {
  index_t const heads = packed.extents().kv_heads;
  index_t const position = packed.position(r / heads, r % heads, slot);
  if (position == kvslim::empty_slot) return false;
  bool const own_given = a.positions != nullptr;
  index_t const own = own_given ? a.positions[s * a.q.tokens + t]
                                : packed.next_position(r / heads, r % heads) - (a.q.tokens - t);
  if ((own_given || a.q.tokens > 1 || a.window > 0) && position > own) return false;
  if (a.window > 0 && position <= own - a.window) return false;
  if (a.visible.begin_end == nullptr) return true;
  for (index_t i = 0; i < a.visible.counts[r]; ++i) {
    std::int32_t const* const span = a.visible.begin_end + (r * a.visible.most + i) * 2;
    if (slot >= span[0] && slot < span[1]) return true;
  }
  return false;
}

/// A row as it decodes, [slot][channel].
struct decoded {
  index_t row, slots;
  std::vector<float> k, v;

  template <class Packed>
  decoded(Packed const& packed, index_t r, index_t n) : row(r), slots(n) {
    auto const& e = packed.extents();
    for (index_t slot = 0; slot < n; ++slot) {
      for (index_t d = 0; d < e.head_dim; ++d) k.push_back(packed.key(r, slot, d));
      for (index_t d = 0; d < e.value_width(); ++d) v.push_back(packed.value(r, slot, d));
    }
  }
};

/// Attention in double over the decoded cache: holes, windows, spans, biases, caps and sinks as the
/// request and the layout say.
template <class Packed>
answer attend(Packed const& packed, decoded const& row, kvslim::attend_request<> const& a,
              index_t s, index_t head, index_t t) {
  auto const& e = packed.extents();
  auto const& rule = packed.layout().logit;
  index_t const r = row.row, n = row.slots;
  double const scale = rule.scale != 0.0f ? static_cast<double>(rule.scale)
                                          : 1.0 / std::sqrt(static_cast<double>(e.head_dim));
  constexpr double none = -std::numeric_limits<double>::infinity();
  answer x{std::vector<double>(static_cast<std::size_t>(e.value_width()), 0.0), none, {}};
  double most = a.sink_logits != nullptr ? static_cast<double>(a.sink_logits[head]) : none;
  for (index_t slot = 0; slot < n; ++slot) {
    double logit = 0;
    for (index_t d = 0; d < e.head_dim; ++d)
      logit += static_cast<double>(a.q.at(s, head, t, d)) *
               row.k[static_cast<std::size_t>(slot * e.head_dim + d)];
    logit *= scale;
    if (rule.soft_cap > 0) logit = rule.soft_cap * std::tanh(logit / rule.soft_cap);
    logit += packed.logit_bias(r, slot);
    x.logits.push_back(sees(packed, a, s, r, t, slot) ? logit : none);
    most = std::max(most, x.logits.back());
  }
  if (most == none) return x;
  double total = a.sink_logits != nullptr ? std::exp(a.sink_logits[head] - most) : 0.0;
  for (double logit : x.logits) total += std::exp(logit - most);
  x.lse = most + std::log(total);
  for (index_t slot = 0; slot < n; ++slot) {
    double const p = std::exp(x.logits[static_cast<std::size_t>(slot)] - x.lse);
    for (index_t d = 0; d < e.value_width() && p > 0; ++d)
      x.out[static_cast<std::size_t>(d)] +=
          p * row.v[static_cast<std::size_t>(slot * e.value_width() + d)];
  }
  return x;
}

/// The row that a query head reads.
template <class Packed>
decoded row_of(Packed const& packed, kvslim::attend_request<> const& a, index_t s, index_t head) {
  index_t const heads = packed.extents().kv_heads, h = head / (a.q.heads / heads);
  return {packed, (s + a.first_sequence) * heads + h, packed.slots(s + a.first_sequence, h)};
}

template <class Packed>
answer attend(Packed const& packed, kvslim::attend_request<> const& a, index_t s, index_t head,
              index_t t) {
  return attend(packed, row_of(packed, a, s, head), a, s, head, t);
}

inline double difference(double got, double expected) {
  return got == expected ? 0.0 : std::abs(got - expected);  // infinities
}

/// All rows of a cache, for tests that ask about the same one often.
template <class Packed>
std::vector<decoded> rows_of(Packed const& packed) {
  std::vector<decoded> rows;
  index_t const heads = packed.extents().kv_heads;
  for (index_t r = 0; r < packed.extents().rows(); ++r)
    rows.emplace_back(packed, r, packed.slots(r / heads, r % heads));
  return rows;
}

/// The largest of: the relative L2 error of what attend() wrote for a query, the error of its lse
/// (relative where it is above 1), and of its logits. `known`: rows_of(packed), or nothing.
template <class Packed>
double error_of(Packed const& packed, kvslim::attend_request<> const& a,
                std::vector<decoded> const& known = {}) {
  double worst = 0;
  std::optional<decoded> own;
  index_t const heads = packed.extents().kv_heads, group = a.q.heads / heads;
  for (index_t s = 0; s < a.q.sequences; ++s)
    for (index_t head = 0; head < a.q.heads; ++head) {
      if (a.active != nullptr && a.active[s] == 0) continue;
      if (head % group == 0 && known.empty()) own.emplace(row_of(packed, a, s, head));
      decoded const& row =
          own ? *own
              : known[static_cast<std::size_t>((s + a.first_sequence) * heads + head / group)];
      for (index_t t = 0; t < a.q.tokens; ++t) {
        auto const expected = attend(packed, row, a, s, head, t);
        double error = 0, norm = 0;
        for (index_t d = 0; d < a.out.head_dim; ++d) {
          double const x = expected.out[static_cast<std::size_t>(d)];
          error += std::pow(x - a.out.at(s, head, t, d), 2);
          norm += x * x;
        }
        worst = std::max(worst, norm > 0 ? std::sqrt(error / norm) : std::sqrt(error));
        index_t const at = (s * a.q.heads + head) * a.q.tokens + t;
        double const lse = a.base2 ? expected.lse / std::log(2.0) : expected.lse;
        worst = std::max(worst, difference(a.lse[at], lse) / std::max(1.0, std::abs(lse)));
        for (std::size_t slot = 0; a.logits != nullptr && slot < expected.logits.size(); ++slot) {
          double const x = expected.logits[slot];
          worst = std::max(
              worst, difference(a.logits[at * a.logits_stride + static_cast<index_t>(slot)], x) /
                         std::max(10.0, std::abs(x)));
        }
      }
    }
  return worst;
}

/// Memory for a request's results, and the request: `n` queries a sequence.
struct asked {
  std::vector<float> out, lse, logits;
  kvslim::attend_request<> request;

  template <class Packed>
  asked(Packed const& packed, kvslim::rows<> const& q, bool with_logits = false) {
    auto const n = static_cast<std::size_t>(q.sequences * q.heads * q.tokens);
    index_t const wide = packed.extents().value_width();
    out.assign(n * static_cast<std::size_t>(wide), 777.0f);
    lse.assign(n, 777.0f);
    request.q = q;
    request.out = kvslim::dense_rows(out.data(), {q.sequences, q.heads, q.tokens, wide});
    request.lse = lse.data();
    if (!with_logits) return;
    for (index_t r = 0; r < packed.extents().rows(); ++r)
      request.logits_stride = std::max<index_t>(request.logits_stride, packed.raw_row(r).slots);
    logits.assign(n * static_cast<std::size_t>(request.logits_stride), 777.0f);
    request.logits = logits.data();
  }
  asked(asked const&) = delete;
};

/// The error of attend() over a packed cache for the first of a cache's queries, the worse of with
/// and without scratch; 1e9 if it refuses. Heads wider than the stack serves need the scratch.
template <class Packed>
double attend_error(Packed const& packed, data::cache const& c, index_t queries = 1,
                    std::vector<decoded> const& known = {}) {
  asked plain(packed, c.queries(queries)), roomy(packed, c.queries(queries));
  data::buffer scratch(kvslim::attend_bytes(packed.layout(), plain.request.q.heads, queries));
  auto const on_stack = kvslim::attend(kvslim::cpu{}, packed, plain.request);
  auto const in_scratch = kvslim::attend(kvslim::cpu{}, packed, roomy.request, scratch);
  if (!in_scratch || !scratch.intact()) return 1e9;
  bool const wide = kvslim::detail::attend_head_floats(packed.layout(), false) >
                    kvslim::detail::attend_stack_floats;
  if (!on_stack && !wide) return 1e9;
  return std::max(on_stack ? error_of(packed, plain.request, known) : 0.0,
                  error_of(packed, roomy.request, known));
}

}  // namespace oracle
