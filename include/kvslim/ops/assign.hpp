// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// Folding what a quota evicts into what stays, near or far: every evicted token names the kept
/// token that it joins, those of one target are brought together in text order, and the target's
/// row is made of them. A merger composes these ops and says what a source gives.

#include <kvslim/core/concepts.hpp>
#include <kvslim/ops/rows.hpp>

#include <cmath>
#include <cstring>

KVSLIM_BEGIN_NAMESPACE

/// Which evicted tokens are folded, by their likeness to the token that they join.
enum class fold_filter : std::uint8_t {
  none,  ///< all
  mean,  ///< those at least as alike as the mean of their head's
  /// The n-th evicted token of every head of a sequence, where those tokens' mean is at least the
  /// mean of all: what the authors' tensors do with tokens that differ from head to head.
  places,
};

namespace detail {

/// What a merger has stored with row r under its id, in `bytes`; null: nothing. Of stored caches
/// there is another form.
template <class Cells>
[[nodiscard]] KVSLIM_HD constexpr std::uint32_t const* words_of(Cells const&, std::uint32_t,
                                                                index_t, index_t) noexcept {
  return nullptr;
}

/// One word of what a merger knew of all rows; 0 where it knew nothing.
template <class Cells>
struct recall_body {
  Cells cells;
  std::uint32_t id;
  index_t bytes;
  std::byte* memory;

  KVSLIM_HD void operator()(index_t i) const {
    index_t const each = bytes / 4;
    std::uint32_t const* const known = words_of(cells, id, bytes, i / each);
    std::uint32_t const word = known == nullptr ? 0 : known[i % each];
    std::memcpy(memory + i * 4, &word, sizeof word);
  }
};

}  // namespace detail

namespace ops {

struct recall_op {};

/// Fills folding::memory with what was stored with the rows of a text, or zeros.
template <class Exec, class Text>
status recall(Exec const& exec, Text const& text, std::uint32_t id, index_t bytes,
              folding const& out) {
  return implementation<recall_op, Exec>::run(
      exec, text.extents().rows() * (bytes / 4),
      detail::recall_body<typename Text::cells_type>{text.cells, id, bytes, out.memory});
}

/// Rows of keys that the CPU compares with one kept key at a time.
inline constexpr index_t nearest_tile = 8;

/// Sources that are added up at a time: a sum of thousands would lose what each one adds.
inline constexpr index_t fold_piece = 64;

/// Floats of scratch per row for the ops below.
[[nodiscard]] KVSLIM_HD constexpr index_t assign_floats(extents const& e) noexcept {
  return (nearest_tile + 1) * e.head_dim + nearest_tile + 4;
}

/// Cosine from a dot product and two norms; 0 if either is zero.
[[nodiscard]] KVSLIM_HD inline float cosine_of(float ab, float a, float b) noexcept {
  return a > 0.0f && b > 0.0f ? ab / (a * b) : 0.0f;
}

/// Whether token t, whose target is known, is folded into another.
[[nodiscard]] KVSLIM_HD constexpr bool joins_another(std::int32_t const* target,
                                                     index_t t) noexcept {
  return target[t] >= 0 && target[t] != t;
}

/// Lists one row's sources by target, stably: those of rank t are sources[begins[t]] to
/// sources[begins[t + 1]], in text order.
inline void group_sources(std::int32_t const* target, index_t tokens, std::int32_t* begins,
                          std::int32_t* sources) noexcept {
  for (index_t t = 0; t <= tokens; ++t) begins[t] = 0;
  for (index_t t = 0; t < tokens; ++t)
    if (joins_another(target, t)) ++begins[target[t] + 1];
  for (index_t t = 0; t < tokens; ++t) begins[t + 1] += begins[t];
  // Each begin moves to the next one's place and is moved back.
  for (index_t t = 0; t < tokens; ++t)
    if (joins_another(target, t)) sources[begins[target[t]]++] = static_cast<std::int32_t>(t);
  for (index_t t = tokens; t > 0; --t) begins[t] = begins[t - 1];
  begins[0] = 0;
}

/// Writes kept token i of row r with all that folds into it, and returns its logit bias: the log
/// of their mass, or its own where the merger stores none. Sources weigh by their own mass,
/// exp(bias), too. `key`, `value` and `bias` read one rank; `scratch` holds three rows.
template <class Merger, class Key, class Value, class Bias>
KVSLIM_HD inline float fold_sources(Merger const& merger, keep_set const& keep, index_t r,
                                    index_t i, index_t tokens, merge_width width, Key const& key,
                                    Value const& value, Bias const& bias, float* k, float* v,
                                    float* scratch) {
  index_t const first = keep.begins[r], rank = keep.ranks[first + i];
  index_t const low = keep.ranks[first + detail::max(0, i - merger.span() + 1)];
  std::int32_t const* const begins = keep.fold.begins + r * (tokens + 1);
  std::int32_t const* const sources = keep.fold.sources + r * tokens;
  float const* const strength = keep.fold.strength + r * tokens;
  key(rank, k);
  value(rank, v);
  float const own = bias(rank);
  index_t const begin = begins[low], end = begins[rank + 1];
  if (begin == end || !(own > -INFINITY)) return own;  // bit-exact
  float most = own;
  for (index_t j = begin; j < end; ++j) most = bias(sources[j]) > most ? bias(sources[j]) : most;
  index_t const wide = detail::max(width.key, width.value);
  float *const row = scratch, *const keys = row + wide, *const values = keys + wide;
  auto const clear = [&](float* x, float* y) {
    for (index_t d = 0; d < width.key; ++d) x[d] = 0.0f;
    for (index_t d = 0; d < width.value; ++d) y[d] = 0.0f;
  };
  clear(keys, values);
  clear(k, v);  // the sums of whole pieces
  auto const end_piece = [&] {
    for (index_t d = 0; d < width.key; ++d) k[d] += keys[d];
    for (index_t d = 0; d < width.value; ++d) v[d] += values[d];
    clear(keys, values);
  };
  double const mine = std::exp(static_cast<double>(own) - static_cast<double>(most));
  double self = mine, count = mine, mass = mine;
  for (index_t j = begin; j < end; ++j) {
    double const m = std::exp(static_cast<double>(bias(sources[j])) - static_cast<double>(most));
    fold_share const share = merger.share(strength[sources[j]]);
    self += m * static_cast<double>(share.target);
    count += m * static_cast<double>(share.count);
    mass += m * static_cast<double>(share.mass);
    auto const a = static_cast<float>(m * static_cast<double>(share.key));
    auto const b = static_cast<float>(m * static_cast<double>(share.value));
    if (a != 0.0f) {
      key(sources[j], row);
      for (index_t d = 0; d < width.key; ++d) keys[d] += a * row[d];
    }
    if (b != 0.0f) {
      value(sources[j], row);
      for (index_t d = 0; d < width.value; ++d) values[d] += b * row[d];
    }
    if ((j - begin + 1) % fold_piece == 0) end_piece();
  }
  end_piece();
  auto const stay = static_cast<float>(self / count), part = static_cast<float>(1.0 / count);
  key(rank, row);
  for (index_t d = 0; d < width.key; ++d)
    k[d] = merger.folds_keys() ? stay * row[d] + part * k[d] : row[d];
  value(rank, row);
  for (index_t d = 0; d < width.value; ++d) v[d] = stay * row[d] + part * v[d];
  return merger.mass_bias() ? static_cast<float>(static_cast<double>(most) + std::log(mass)) : own;
}

struct group_sources_op {};

/// Lists every row's sources by target, and makes fates of targets.
template <class Exec, class Text>
status group_sources(Exec const& exec, Text const& text, folding const& out, fate* fates) {
  return implementation<group_sources_op, Exec>::run(exec, text, out, fates);
}

/// One row of it.
template <class Text>
inline void group_row(Text const& text, folding const& out, fate* fates, index_t r) noexcept {
  auto const& e = text.extents();
  index_t const n = text.tokens(r / e.kv_heads, r % e.kv_heads), row = r * e.tokens;
  group_sources(out.target + row, n, out.begins + row + r, out.sources + row);
  for (index_t t = 0; t < n; ++t)
    fates[row + t] = out.target[row + t] == t ? fate::kept : fate::evicted;
}

struct nearest_kept_op {};

/// Targets of every (row, rank): evicted tokens join the kept token whose key has the largest
/// cosine with theirs, the first one of several, if that is at least `least`; kept ones are their
/// own target. What a bias of -inf hides neither joins nor is joined. Strength: the cosine.
template <class Exec, class Text>
status nearest_kept(Exec const& exec, Text const& text, fate const* fates, float least,
                    folding const& out, float* scratch) {
  return implementation<nearest_kept_op, Exec>::run(exec, text, fates, least, out, scratch);
}

/// Least likeness that folds, as it was last time; of every row of a group the same.
struct least_likeness {
  double least = 0.0;
  std::int64_t times = 0;  ///< 0: there was none yet
};

/// What is folded, and how a threshold that runs on meets the mean of the day.
struct drop_rule {
  fold_filter filter = fold_filter::none;
  float past = 0.0f, present = 1.0f;  ///< with folding::memory, of one least_likeness a row
};

struct drop_unlike_op {};

/// Lets go of evicted tokens that `rule` does not fold. Scratch: as assign_floats says. Where rows
/// remember, the mean likeness is only the first threshold; the next are past * the last one +
/// present * the mean.
template <class Exec, class Text>
status drop_unlike(Exec const& exec, Text const& text, drop_rule const& rule, folding const& out,
                   float* scratch) {
  return rule.filter == fold_filter::none
             ? status{}
             : implementation<drop_unlike_op, Exec>::run(exec, text, rule, out, scratch);
}

/// What of a row joins anything: the sum of its strengths, and how many there are.
struct joining {
  double sum;
  std::int32_t count;

  KVSLIM_HD joining(double all, index_t tokens) noexcept
      : sum(all), count(static_cast<std::int32_t>(tokens)) {}
  KVSLIM_HD joining(extents const& e, float const* scratch, index_t r) noexcept {
    std::memcpy(&sum, scratch + r * assign_floats(e), sizeof sum);
    std::memcpy(&count, scratch + r * assign_floats(e) + 2, sizeof count);
  }
  KVSLIM_HD void write(extents const& e, float* scratch, index_t r) const noexcept {
    std::memcpy(scratch + r * assign_floats(e), &sum, sizeof sum);
    std::memcpy(scratch + r * assign_floats(e) + 2, &count, sizeof count);
  }
};

/// Strengths are added up in so many sums, token by token in turn, and those by halves: in the same
/// order on every backend.
inline constexpr index_t joining_sums = 512;

/// Lists what of row r joins anything in out.sources, and its sum and count in the row's scratch.
template <class Text>
inline void list_joining(Text const& text, folding const& out, index_t r, float* scratch) noexcept {
  auto const& e = text.extents();
  index_t const n = text.tokens(r / e.kv_heads, r % e.kv_heads), row = r * e.tokens;
  detail::local<double, joining_sums> sums = {};
  index_t count = 0;
  for (index_t t = 0; t < n; ++t) {
    if (!joins_another(out.target + row, t)) continue;
    sums[t % joining_sums] += static_cast<double>(out.strength[row + t]);
    out.sources[row + count++] = static_cast<std::int32_t>(t);
  }
  for (index_t half = joining_sums / 2; half > 0; half /= 2)
    for (index_t i = 0; i < half; ++i) sums[i] += sums[half + i];
  joining(sums[0], count).write(e, scratch, r);
}

/// Moves the threshold of rows [first, first + rows) on; where nothing is to fold it stays.
template <class Text>
KVSLIM_HD inline void move_threshold(Text const& text, drop_rule const& rule, folding const& out,
                                     float const* scratch, index_t first, index_t rows) noexcept {
  double all = 0.0;
  index_t members = 0;
  for (index_t r = first; r < first + rows; ++r) {
    joining const mine(text.extents(), scratch, r);
    all += mine.sum;
    members += mine.count;
  }
  if (members == 0) return;
  constexpr auto size = static_cast<index_t>(sizeof(least_likeness));
  least_likeness x;
  std::memcpy(&x, out.memory + first * size, sizeof x);
  double const mean = all / static_cast<double>(members);
  x.least = x.times == 0 ? mean
                         : static_cast<double>(rule.past) * x.least +
                               static_cast<double>(rule.present) * mean;
  ++x.times;
  for (index_t r = first; r < first + rows; ++r) std::memcpy(out.memory + r * size, &x, sizeof x);
}

/// Drops the j-th listed token of each of rows [first, first + rows), or keeps it, together.
template <class Text>
KVSLIM_HD inline void drop_place(Text const& text, folding const& out, float const* scratch,
                                 index_t first, index_t rows, index_t j) noexcept {
  auto const& e = text.extents();
  double all = 0.0, here = 0.0;
  index_t members = 0, heads = 0;
  for (index_t r = first; r < first + rows; ++r) {
    joining const mine(e, scratch, r);
    all += mine.sum;
    members += mine.count;
    if (j >= mine.count) continue;
    here += static_cast<double>(out.strength[r * e.tokens + out.sources[r * e.tokens + j]]);
    ++heads;
  }
  if (heads == 0) return;
  least_likeness x{all / static_cast<double>(members), 0};
  if (out.memory != nullptr)
    std::memcpy(&x, out.memory + first * static_cast<index_t>(sizeof x), sizeof x);
  if (here / static_cast<double>(heads) >= x.least) return;
  for (index_t r = first; r < first + rows; ++r)
    if (j < joining(e, scratch, r).count)
      out.target[r * e.tokens + out.sources[r * e.tokens + j]] = -1;
}

}  // namespace ops

template <host_executor Exec>
struct implementation<ops::recall_op, Exec> {
  template <class Body>
  static status run(Exec const& exec, index_t words, Body const& body) {
    exec.for_each(words, body);
    return {};
  }
};

template <host_executor Exec>
struct implementation<ops::group_sources_op, Exec> {
  template <class Text>
  static status run(Exec const& exec, Text const& text, folding const& out, fate* fates) {
    exec.for_each(text.extents().rows(), [=](index_t r) { ops::group_row(text, out, fates, r); });
    return {};
  }
};

template <host_executor Exec>
struct implementation<ops::nearest_kept_op, Exec> {
  template <class Text>
  static status run(Exec const& exec, Text const& text, fate const* fates, float least,
                    folding const& out, float* scratch) {
    exec.for_each(text.extents().rows(), [=](index_t r) {
      assign_row(text, fates, least, out, scratch + r * ops::assign_floats(text.extents()), r);
    });
    return {};
  }

 private:
  template <class Text>
  static void assign_row(Text const& text, fate const* fates, float least, folding const& out,
                         float* scratch, index_t r) {
    auto const& e = text.extents();
    index_t const s = r / e.kv_heads, h = r % e.kv_heads, n = text.tokens(s, h), dim = e.head_dim;
    fate const* const mine = fates + r * e.tokens;
    std::int32_t* const target = out.target + r * e.tokens;
    float* const strength = out.strength + r * e.tokens;
    float *const kept = scratch + ops::nearest_tile * dim, *const norms = kept + dim;
    auto const hidden = [&](index_t t) { return !(text.logit_bias(s, h, t) > -INFINITY); };
    index_t ranks[static_cast<std::size_t>(ops::nearest_tile)];
    index_t count = 0;
    auto const flush = [&] {
      for (index_t c = 0; c < n && count > 0; ++c) {
        if (mine[c] == fate::evicted || hidden(c)) continue;
        text.key(s, h, c).load(kept);
        float const norm = ops::norm(kept, dim);
        for (index_t j = 0; j < count; ++j) {
          float const u = ops::cosine_of(ops::dot(scratch + j * dim, kept, dim), norms[j], norm);
          if (!(u > strength[ranks[j]]) || !(u >= least)) continue;
          strength[ranks[j]] = u;
          target[ranks[j]] = static_cast<std::int32_t>(c);
        }
      }
      count = 0;
    };
    for (index_t t = 0; t < n; ++t) {
      bool const evicted = mine[t] == fate::evicted;
      target[t] = evicted ? -1 : static_cast<std::int32_t>(t);
      strength[t] = -INFINITY;
      if (!evicted || hidden(t)) continue;
      text.key(s, h, t).load(scratch + count * dim);
      norms[count] = ops::norm(scratch + count * dim, dim);
      ranks[count++] = t;
      if (count == ops::nearest_tile) flush();
    }
    flush();
  }
};

template <host_executor Exec>
struct implementation<ops::drop_unlike_op, Exec> {
  template <class Text>
  static status run(Exec const& exec, Text const& text, ops::drop_rule const& rule,
                    folding const& out, float* scratch) {
    auto const& e = text.extents();
    index_t const rows = rule.filter == fold_filter::places ? e.kv_heads : 1;
    exec.for_each(e.rows(), [=](index_t r) { ops::list_joining(text, out, r, scratch); });
    if (out.memory != nullptr)
      exec.for_each(e.rows() / rows, [=](index_t g) {
        ops::move_threshold(text, rule, out, scratch, g * rows, rows);
      });
    exec.for_each(e.rows() / rows, [=](index_t g) {
      for (index_t j = 0; j < text.extents().tokens; ++j)
        ops::drop_place(text, out, scratch, g * rows, rows, j);
    });
    return {};
  }
};

/// What a merger that assigns needs besides `assign` and `share`: derive from it.
struct assigning_merger {
  [[nodiscard]] KVSLIM_HD constexpr index_t span() const noexcept { return 1; }
  [[nodiscard]] KVSLIM_HD constexpr bool folds_keys() const noexcept { return true; }
  [[nodiscard]] KVSLIM_HD constexpr bool grows() const noexcept { return false; }
  [[nodiscard]] constexpr index_t scratch_floats(extents const& e) const noexcept {
    return ops::assign_floats(e);
  }
};

KVSLIM_END_NAMESPACE
