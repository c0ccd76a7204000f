// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/planar.hpp>
#include <kvslim/isa/tile_kernels.hpp>
#include <kvslim/ops/select.hpp>
#include <kvslim/run/append.hpp>
#include <kvslim/run/attend.hpp>

#include <algorithm>

KVSLIM_BEGIN_NAMESPACE

/// Where select_pages() writes: the slots of row r's pages as ranges, ascending, neighbours joined.
/// The caller's memory; attend() reads it as a request's `visible`.
struct page_spans {
  std::int32_t* begin_end = nullptr;  ///< [rows, most, 2]
  std::int32_t* counts = nullptr;     ///< [rows]
  index_t most = 0;                   ///< at least most_spans(plan)

  [[nodiscard]] constexpr operator visible_spans() const noexcept {
    return {begin_end, counts, most};
  }
};

/// Ranges that select_pages() may write for one row.
template <class Plan>
[[nodiscard]] constexpr index_t most_spans(Plan const& plan) noexcept {
  static_assert(Plan::has_index, "kvslim: pages are selected by a pipeline that ends in an index");
  if (!plan.check()) return 0;
  auto const& index = plan.template stage<index_tag>();
  index_t const most = plan.most_slots();
  return detail::max(index.reads(most), index.reads(most - 1));
}

namespace detail {

/// Channels whose terms are summed at a time.
inline constexpr index_t index_run = 64;

/// Bytes of a page's numbers and grade; 0 where no index is stored.
template <class Layout>
[[nodiscard]] KVSLIM_HD inline index_t page_bytes(Layout const& layout) noexcept {
  int const at = layout.find(side_kind::page);
  return at < 0 ? 0 : layout.sides[at].bytes;
}

/// Numbers of one page: field f of channel d at [f * dim + d].
template <class Index, class Packed>
[[nodiscard]] KVSLIM_HD inline index_element<Index>* page_fields(Packed const& packed, index_t r,
                                                                 index_t page) noexcept {
  std::byte* const all = packed.side_of(r, side_kind::page);
  return static_cast<index_element<Index>*>(
      static_cast<void*>(all + page * page_bytes(packed.layout())));
}

/// The grade of a page, behind its numbers.
template <class Index, class Packed>
[[nodiscard]] KVSLIM_HD inline float& page_grade(Packed const& packed, index_t r,
                                                 index_t page) noexcept {
  index_t const bytes = page_bytes(packed.layout());
  return *array_at<float>(packed.side_of(r, side_kind::page) + (page + 1) * bytes - 4);
}

/// What is stored of a page, as floats.
template <class Index>
struct read_fields {
  index_element<Index> const* page;
  index_t dim;
  [[nodiscard]] KVSLIM_HD float operator()(index_t f, index_t d) const noexcept {
    return to_float(page[f * dim + d]);
  }
};

/// One channel of rows that lie behind each other.
struct staged_channel {
  float const* first;
  index_t dim;
  [[nodiscard]] KVSLIM_HD float operator()(index_t t) const noexcept { return first[t * dim]; }
};

/// One of such rows.
struct staged_key {
  float const* row;
  [[nodiscard]] KVSLIM_HD float operator()(index_t d) const noexcept { return row[d]; }
};

/// Summarises one channel of a page.
template <class Index, class Read>
KVSLIM_HD inline void write_fields(Index const& index, index_element<Index>* page, index_t dim,
                                   index_t d, page_channel<Read> const& channel) {
  float fields[Index::traits.fields];
  index.summarize(channel, fields);
  for (index_t f = 0; f < Index::traits.fields; ++f)
    page[f * dim + d] = from_float<index_element<Index>>(fields[f]);
}

/// The first page from `page` on that must be summarised anew: pages whose codes are new since the
/// last time, then those that grew. Behind the row's slots: none is left.
[[nodiscard]] KVSLIM_HD inline index_t stale_page(packed_row const& x, index_t unit,
                                                  index_t page) noexcept {
  index_t const coded = div_up(x.key_coded, unit), next = max(page, x.indexed / unit);
  return next < coded ? next : max(next, max(coded, x.summarized / unit));
}

KVSLIM_HD inline void count_summarized(packed_row& x, index_t unit) noexcept {
  x.indexed = static_cast<std::int32_t>(x.key_coded / unit * unit);
  x.summarized = x.slots;
}

[[nodiscard]] KVSLIM_HD inline bool is_summarized(packed_row const& x, index_t unit) noexcept {
  return x.summarized == x.slots && x.indexed == x.key_coded / unit * unit;
}

/// What both backends check of a plan and its cache.
template <class Plan, class Packed>
[[nodiscard]] status check_index(Plan const& plan, Packed const& packed) noexcept {
  static_assert(Plan::has_index, "kvslim: pages are selected by a pipeline that ends in an index");
  if (auto const s = plan.check(); !s) return s;
  if (packed.storage() == nullptr)
    return fail(errc::invalid_pointer, "kvslim: the cache's storage is a null pointer");
  auto const mine = plan.layout();
  int const i = packed.layout().find(side_kind::page), j = mine.find(side_kind::page);
  if (i < 0 || j < 0 || !(packed.layout().sides[i] == mine.sides[j]))
    return fail(errc::unsupported, "kvslim: the cache has no pages of this index");
  return {};
}

template <class Packed, class Space>
[[nodiscard]] status check_pages(Packed const& packed, attend_request<Space> const& a,
                                 page_spans const& to, index_t most) noexcept {
  auto const& e = packed.extents();
  if (a.q.data == nullptr || to.begin_end == nullptr || to.counts == nullptr)
    return fail(errc::invalid_pointer, "kvslim: select_pages was given a null pointer");
  if (a.q.sequences < 1 || a.q.tokens < 1 || a.q.heads < 1 || a.q.heads % e.kv_heads != 0 ||
      a.q.head_dim != e.head_dim || a.first_sequence < 0 ||
      a.first_sequence > e.sequences - a.q.sequences)
    return fail(errc::invalid_shape,
                "kvslim: select_pages needs q as [sequences, q_heads, n, head_dim]");
  if (to.most < most)
    return fail(errc::buffer_too_small, "kvslim: a row may have more pages than the list has room");
  return {};
}

inline constexpr index_t softmax_floats = sizeof(ops::softmax_state) / sizeof(float);

/// Floats that one row needs: keys of pages, softmax states and logits of queries where they share
/// themselves out, and the queries.
template <class Plan>
[[nodiscard]] constexpr index_t page_words(Plan const& plan, index_t q_heads,
                                           index_t q_tokens) noexcept {
  auto const& e = plan.extents();
  index_t const pages = div_up(plan.most_slots(), plan.template stage<index_tag>().page_tokens()),
                queries = q_heads / e.kv_heads * q_tokens;
  using index_type = std::remove_cvref_t<decltype(plan.template stage<index_tag>())>;
  index_t const shares = index_type::traits.shares ? softmax_floats + pages : 0;
  return round_up(queries * (e.head_dim + shares) + 2 * pages, 16);
}

/// The queries of one row.
struct page_queries {
  float* q;                   ///< [group][n][dim]
  ops::softmax_state* state;  ///< [group][n], over the ranked pages where scores are shares
  index_t group, n, dim;
  float scale;    ///< of logits
  float* logits;  ///< on the CPU: [group][n][pages], where scores are shares
  index_t pages;

  [[nodiscard]] KVSLIM_HD index_t count() const noexcept { return group * n; }
  /// The share that query i gives a page.
  [[nodiscard]] KVSLIM_HD float share(index_t i, float score) const noexcept {
    return std::exp(score * scale - state[i].most) / static_cast<float>(state[i].total);
  }
};

/// The largest score that queries have for a page.
template <class Index>
[[nodiscard]] KVSLIM_HD inline float page_score(Index const& index,
                                                index_element<Index> const* page,
                                                page_queries const& x) {
  constexpr index_t fields = Index::traits.fields;
  float best = -INFINITY;
  for (index_t first = 0; first < x.count(); first += run_heads) {
    index_t const n = min(run_heads, x.count() - first);
    float sums[run_heads] = {};
    for (index_t d = 0; d < x.dim; d += index_run) {
      index_t const channels = min(index_run, x.dim - d);
      float of[Index::traits.fields][index_run];
      for (index_t f = 0; f < fields; ++f)
        load_channels(page + f * x.dim + d, index_t{1}, channels, of[f]);
      for (index_t h = 0; h < n; ++h) {
        float const* const mine = x.q + (first + h) * x.dim + d;
        sums[h] += sum_of(channels, [&](index_t i) {
          float one[Index::traits.fields];
          for (index_t f = 0; f < fields; ++f) one[f] = of[f][i];
          return index.term(mine[i], one);
        });
      }
    }
    for (index_t h = 0; h < n; ++h) best = sums[h] > best ? sums[h] : best;
  }
  return best;
}

/// x.logits of `ranked` pages: q . page.
template <class Index, class Packed>
KVSLIM_HD inline void fill_page_logits(Packed const& packed, index_t r, page_queries const& x,
                                       index_t ranked) {
  using element_type = index_element<Index>;
  auto const& layout = packed.layout();
  index_t const apart = page_bytes(layout);
  std::byte const* const first = packed.side_of(r, side_kind::page);
  if (dot_spaced<element_type>(first, apart, x.dim, ranked, x.q, x.count(), x.logits, x.pages))
    return;
  for (index_t p = 0; p < ranked; ++p) {
    auto const* const page = array_at<element_type>(first + p * apart);
    for (index_t i = 0; i < x.count(); ++i)
      x.logits[i * x.pages + p] =
          sum_of(x.dim, [&](index_t d) { return x.q[i * x.dim + d] * widen(page[d]); });
  }
}
/// Makes of one query's logits its softmax over the pages that skip(p) leaves.
template <class Skip>
void soften_pages(float* logits, index_t ranked, float scale, Skip const& skip) {
  float high = -INFINITY, total = 0.0f;
  for (index_t p = 0; p < ranked; ++p) {
    logits[p] = skip(p) ? -INFINITY : logits[p] * scale;
    high = logits[p] > high ? logits[p] : high;
  }
  for (index_t p = 0; p < ranked; p += run_tokens) {
    index_t const n = min(run_tokens, ranked - p);
    float x[run_tokens], sum = 0.0f;
    for (index_t i = 0; i < n; ++i) x[i] = logits[p + i];
    if (!soften(x, 1, 1, &n, &high, &sum)) soften_plainly(x, 1, 1, &n, &high, &sum);
    for (index_t i = 0; i < n; ++i) logits[p + i] = x[i];
    total += sum;
  }
  float const each = total > 0.0f ? 1.0f / total : 0.0f;
  for (index_t p = 0; p < ranked; ++p) logits[p] *= each;
}
/// What a page is worth to queries that share themselves out: the most that a head gives it, all
/// its tokens together.
[[nodiscard]] inline float page_share(page_queries const& x, index_t page) noexcept {
  float best = 0.0f;
  for (index_t g = 0; g < x.group; ++g) {
    float sum = 0.0f;
    for (index_t t = 0; t < x.n; ++t) sum += x.logits[(g * x.n + t) * x.pages + page];
    best = sum > best ? sum : best;
  }
  return best;
}
/// The key by which the worst graded pages come first.
template <class Index, class Packed>
[[nodiscard]] KVSLIM_HD inline std::uint64_t grade_key(Packed const& packed, index_t r,
                                                       index_t page) noexcept {
  return ops::order_key(-page_grade<Index>(packed, r, page), page);
}

/// Fills keys[ranked] by which the pages to read come first, outliers before all others.
template <class Index, class Packed>
void rank_pages(Index const& index, Packed const& packed, index_t r, page_queries const& x,
                index_t ranked, index_t outliers, std::uint64_t* keys) {
  std::uint64_t worst = ~std::uint64_t{0};
  if constexpr (Index::traits.grades) {
    for (index_t p = 0; p < ranked && outliers > 0; ++p) keys[p] = grade_key<Index>(packed, r, p);
    ops::top_keys(keys, ranked, outliers);
    for (index_t i = 0; i < outliers; ++i) worst = keys[i] < worst ? keys[i] : worst;
  }
  auto const is_outlier = [&](index_t p) {
    if constexpr (Index::traits.grades)
      return outliers > 0 && grade_key<Index>(packed, r, p) >= worst;
    return false;
  };
  if constexpr (Index::traits.shares) {
    fill_page_logits<Index>(packed, r, x, ranked);
    for (index_t i = 0; i < x.count(); ++i)
      soften_pages(x.logits + i * x.pages, ranked, x.scale, is_outlier);
  }
  for (index_t p = 0; p < ranked; ++p) {
    float worth = INFINITY;
    if (!is_outlier(p)) {
      if constexpr (Index::traits.shares)
        worth = page_share(x, p);
      else
        worth = page_score(index, page_fields<Index>(packed, r, p), x);
    }
    keys[p] = ops::order_key(worth, p);
  }
}

/// Pages of one row by their scores; `keys` has room for all of them.
template <class Index, class Packed>
void select_pages_of_row(Index const& index, Packed const& packed, index_t r, page_queries const& x,
                         std::uint64_t* keys, std::int32_t* spans, std::int32_t& count) {
  index_t const unit = index.page_tokens(), slots = packed.raw_row(r).slots,
                all = div_up(slots, unit);
  index_t const reads = min(all, index.reads(slots)), newest = min(reads, index.newest(slots));
  index_t const ranked = all - newest;
  index_t outliers = 0;
  if constexpr (Index::traits.grades) outliers = min(reads - newest, index.outliers());
  rank_pages(index, packed, r, x, ranked, outliers, keys);
  ops::top_keys(keys, ranked, reads - newest);
  for (index_t i = 0; i < reads - newest; ++i)
    keys[i] = static_cast<std::uint64_t>(ops::key_index(keys[i]));
  for (index_t i = 0; i < newest; ++i)
    keys[reads - newest + i] = static_cast<std::uint64_t>(ranked + i);
  std::sort(keys, keys + reads);
  count = 0;
  for (index_t i = 0; i < reads; ++i) {
    auto const begin = static_cast<std::int32_t>(static_cast<index_t>(keys[i]) * unit);
    auto const end = static_cast<std::int32_t>(min(slots, begin + unit));
    if (count > 0 && spans[2 * count - 1] == begin) {
      spans[2 * count - 1] = end;
      continue;
    }
    spans[2 * count] = begin;
    spans[2 * count + 1] = end;
    ++count;
  }
}

}  // namespace detail

/// Bytes of scratch for update_index.
template <class Plan>
[[nodiscard]] constexpr std::size_t update_index_bytes(Plan const& plan) noexcept {
  static_assert(Plan::has_index, "kvslim: pages are selected by a pipeline that ends in an index");
  if (!plan.check()) return 0;
  auto const& e = plan.extents();
  return static_cast<std::size_t>(
             e.rows() *
             detail::round_up(plan.template stage<index_tag>().page_tokens() * e.head_dim, 16)) *
         sizeof(float);
}

/// Bytes of scratch for select_pages with so many query heads and query tokens; 0 where they do not
/// fit the plan.
template <class Plan>
[[nodiscard]] constexpr std::size_t select_pages_bytes(Plan const& plan, index_t q_heads,
                                                       index_t q_tokens = 1) noexcept {
  static_assert(Plan::has_index, "kvslim: pages are selected by a pipeline that ends in an index");
  auto const& e = plan.extents();
  if (!plan.check() || q_heads < 1 || q_heads > 65536 || q_tokens < 1 || q_tokens > 65536 ||
      q_heads % e.kv_heads != 0)
    return 0;
  return static_cast<std::size_t>(e.rows() * detail::page_words(plan, q_heads, q_tokens)) *
         sizeof(float);
}

/// Summarises the pages that changed: all of them after encode(), later those that append() made
/// longer and those that settle() coded. Call it when the step's keys are stored, before
/// select_pages().
///
/// Requires: a cache of a plan that ends in an index, scratch of update_index_bytes(plan).
/// Returns: unsupported (no index, or another), buffer_too_small, invalid_pointer, corrupt; then
/// nothing was changed. Cost: one decode of the keys of changed pages, one or two pages a row while
/// decoding.
template <host_executor Exec, class Plan, class Key, class Value>
status update_index(Exec const& exec, Plan const& plan,
                    packed_cache<Key, Value, host_space> const& packed, workspace scratch,
                    step at = {}) {
  if (auto const s = detail::check_index(plan, packed); !s) return s;
  if (!packed.ready())
    return detail::fail(errc::corrupt, "kvslim: the packed cache was never filled");
  auto const& e = packed.extents();
  if (auto const s = detail::resolve(at, e); !s) return s;
  if (auto const s = detail::check_workspace(scratch, update_index_bytes(plan)); !s) return s;
  auto const& index = plan.template stage<index_tag>();
  using index_type = std::remove_cvref_t<decltype(index)>;
  index_t const unit = index.page_tokens(), dim = e.head_dim,
                floats = detail::round_up(unit * dim, 16), first = at.first_sequence * e.kv_heads;
  auto* const all = static_cast<float*>(static_cast<void*>(scratch.data));
  exec.for_each(at.sequences * e.kv_heads, [=](index_t i) {
    index_t const r = first + i;
    if (!detail::is_active(at, e, r)) return;
    packed_row& x = packed.raw_row(r);
    auto const keys = packed.keys(r);
    float* const rows = all + i * floats;
    for (index_t page = detail::stale_page(x, unit, 0); page * unit < x.slots;
         page = detail::stale_page(x, unit, page + 1)) {
      index_t const begin = page * unit, n = detail::min(unit, x.slots - begin);
      for (index_t t = 0; t < n; ++t) keys.load(begin + t, rows + t * dim);
      auto* const fields = detail::page_fields<index_type>(packed, r, page);
      for (index_t d = 0; d < dim; ++d)
        detail::write_fields(index, fields, dim, d,
                             page_channel<detail::staged_channel>{{rows + d, dim}, n});
      if constexpr (index_type::traits.grades) {
        float least = INFINITY;
        for (index_t t = 0; t < n; ++t) {
          float const mine = index.grade(dim, detail::staged_key{rows + t * dim},
                                         detail::read_fields<index_type>{fields, dim});
          least = mine < least ? mine : least;
        }
        detail::page_grade<index_type>(packed, r, page) = least;
      }
    }
    detail::count_summarized(x, unit);
  });
  return {};
}

/// Chooses the pages that the request's queries read of every row: the index's `reads(slots)`, its
/// newest ones, those of the lowest grades and the best of the others, ties to the earlier. Query
/// heads of a KV head, and several query tokens, choose together. Then attend() with
/// `request.visible = spans` reads only those.
///
/// Reads of the request: q, first_sequence, active. Spans of rows that are not asked for stay as
/// they are. Requires: update_index() since the cache last changed, scratch of
/// select_pages_bytes(plan, q_heads, q_tokens).
/// Returns: unsupported, invalid_shape, invalid_pointer, buffer_too_small, corrupt (never filled,
/// or changed since it was summarised); then nothing was written. Cost: one read of the pages'
/// metadata.
template <host_executor Exec, class Plan, class Key, class Value>
status select_pages(Exec const& exec, Plan const& plan,
                    packed_cache<Key, Value, host_space> const& packed,
                    attend_request<host_space> const& a, page_spans const& to, workspace scratch) {
  if (auto const s = detail::check_index(plan, packed); !s) return s;
  if (auto const s = detail::check_pages(packed, a, to, most_spans(plan)); !s) return s;
  if (!packed.ready())
    return detail::fail(errc::corrupt, "kvslim: the packed cache was never filled");
  auto const& e = packed.extents();
  std::size_t const needed = select_pages_bytes(plan, a.q.heads, a.q.tokens);
  if (needed == 0)
    return detail::fail(errc::invalid_shape, "kvslim: select_pages was asked for too much at once");
  if (auto const s = detail::check_workspace(scratch, needed); !s) return s;
  auto const& index = plan.template stage<index_tag>();
  index_t const first = a.first_sequence * e.kv_heads, count = a.q.sequences * e.kv_heads,
                unit = index.page_tokens(), pages = detail::div_up(plan.most_slots(), unit);
  for (index_t r = first; r < first + count; ++r) {
    packed_row const& x = packed.raw_row(r);
    if (a.active != nullptr && a.active[(r - first) / e.kv_heads] == 0) continue;
    if (x.slots > plan.most_slots())
      return detail::fail(errc::invalid_shape,
                          "kvslim: a row holds more than the plan has room for");
    if (!detail::is_summarized(x, unit))
      return detail::fail(errc::corrupt, "kvslim: the index is older than the cache: update it");
  }
  index_t const group = a.q.heads / e.kv_heads, queries = group * a.q.tokens;
  index_t const words = detail::page_words(plan, a.q.heads, a.q.tokens);
  float const scale = detail::logit_scale(packed.layout().logit, e.head_dim);
  auto* const all = static_cast<float*>(static_cast<void*>(scratch.data));
  exec.for_each(count, [=](index_t i) {
    index_t const s = i / e.kv_heads, h = i % e.kv_heads, r = first + i;
    if (a.active != nullptr && a.active[s] == 0) return;
    auto* const keys = static_cast<std::uint64_t*>(static_cast<void*>(all + i * words));
    detail::page_queries const x{
        .q = all + (i + 1) * words - detail::round_up(queries * e.head_dim, 2),
        .state = nullptr,
        .group = group,
        .n = a.q.tokens,
        .dim = e.head_dim,
        .scale = scale,
        .logits = static_cast<float*>(static_cast<void*>(keys + pages)),
        .pages = pages};
    for (index_t g = 0; g < group; ++g)
      for (index_t t = 0; t < a.q.tokens; ++t)
        a.q.load(s, h * group + g, t, x.q + (g * a.q.tokens + t) * e.head_dim);
    detail::select_pages_of_row(index, packed, r, x, keys, to.begin_end + r * to.most * 2,
                                to.counts[r]);
  });
  return {};
}

KVSLIM_END_NAMESPACE
