// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/fingerprint.hpp>
#include <kvslim/core/pipeline.hpp>
#include <kvslim/ops/observe.hpp>
#include <kvslim/quant/dense.hpp>
#include <kvslim/score/shared.hpp>
#include <kvslim/store/packed_layout.hpp>

KVSLIM_BEGIN_NAMESPACE

struct plan_options {
  index_t append_tokens = 0;      ///< room for tokens that decoding will append to every row
  index_t draft_tokens = 1;       ///< appended tokens that may wait before settle() must run
  index_t row_slots = 0;          ///< least room of every row: a longer one may join() its place
  bool evicts = false;            ///< tokens will leave while decoding: positions, columns and
                                  ///< pins stay
  bool positions = false;         ///< store positions although rows have no gaps of kvslim's making
  bool biases = false;            ///< store the view's logit biases
  logit_rule logit = {};          ///< how attention over the stored cache makes its logits
  std::uint64_t fingerprint = 0;  ///< of codebooks and bases that a reader must have
  bool one_pass = false;          ///< encode reads K and V once, on CPUs: see encode()
};

namespace detail {

/// The codecs of a pipeline; without a quantizer rows are stored as f16.
template <class Policy>
struct storage_of {
  using stage = typename Policy::template stage_type<quantizer_tag>;
  using quantizer_type = std::conditional_t<std::same_as<stage, no_stage>, dense<f16>, stage>;
  using key_type = decltype(std::declval<quantizer_type const&>().key_codec());
  using value_type = decltype(std::declval<quantizer_type const&>().value_codec());
  static_assert(key_codec<key_type>,
                "kvslim: key_codec() must return a key_codec, see core/codec.hpp");
  static_assert(value_codec<value_type>,
                "kvslim: value_codec() must return a value_codec, see core/codec.hpp");
  using layout_type = packed_layout<key_type, value_type>;

  [[nodiscard]] static constexpr quantizer_type quantizer(Policy const& p) noexcept {
    if constexpr (std::same_as<stage, no_stage>)
      return {};
    else
      return p.template get<quantizer_tag>();
  }
};

/// What select() works in.
struct select_space {
  float* scores;           // [rows, tokens]
  row_statistics* stated;  // [rows], with a quota that reads them
  std::uint64_t* keys;     // [rows, tokens]
  fate* fates;             // [rows, tokens]
  std::byte* columns;      // [rows, tokens] records
  row_facts* facts;        // [rows], group after group
  quota* quotas;           // [rows] by row
  quota* grouped_quotas;   // [rows], group after group
  float* scratch;          // [rows, scorer's floats]
  std::byte* rule;         // the keep rule's
  float* staging;          // a merger's: two keys of every row, or what assign asks for
  std::uint8_t* good;      // [rows]
};

/// What encode() works in.
struct encode_space {
  float* staging;       // [rows, staging_floats]
  index_t* capacities;  // [rows]
  std::uint8_t* good;   // [rows]
};

}  // namespace detail

/// Everything that can be known before data is seen: captured options, extents, and sizes. Pure
/// arithmetic, no allocation. Every size is in bytes and 0 where check() fails.
template <class Policy>
class compression_plan {
  using stored = detail::storage_of<Policy>;

 public:
  using policy_type = Policy;
  using layout_type = typename stored::layout_type;
  using key_codec_type = typename stored::key_type;
  using value_codec_type = typename stored::value_type;
  using scorer_type = typename Policy::template stage_type<scorer_tag>;
  static constexpr bool has_scorer = Policy::template has<scorer_tag>;
  static constexpr bool has_quota = Policy::template has<quota_tag>;
  static constexpr bool has_keep_rule = Policy::template has<keep_tag>;
  static constexpr bool has_merger = Policy::template has<merger_tag>;
  static constexpr bool assigns = [] {
    if constexpr (has_merger) return Policy::template stage_type<merger_tag>::traits.assigns;
    return false;
  }();
  static constexpr std::uint32_t memory_id = [] {
    if constexpr (has_merger) return Policy::template stage_type<merger_tag>::traits.memory;
    return std::uint32_t{0};
  }();
  static constexpr bool has_mover = Policy::template has<position_tag>;
  static constexpr bool has_index = Policy::template has<index_tag>;
  static constexpr bool scores_in_bulk = [] {
    if constexpr (has_scorer) return scorer_type::traits.bulk;
    return false;
  }();
  static constexpr bool observes = [] {
    if constexpr (has_scorer) return scorer_type::traits.observes;
    return false;
  }();
  static constexpr bool gates = [] {
    if constexpr (has_scorer) return scorer_type::traits.gates;
    return false;
  }();
  static constexpr bool reads_statistics = [] {
    if constexpr (has_quota) return Policy::template stage_type<quota_tag>::traits.statistics;
    return false;
  }();
  static constexpr index_t column_bytes = [] {
    if constexpr (observes) return detail::column_bytes<detail::column_of<scorer_type>>;
    return index_t{0};
  }();

  constexpr compression_plan(Policy const& policy, kvslim::extents const& e,
                             plan_options options) noexcept
      : policy_(policy), extents_(e), options_(options) {
    if constexpr (scores_in_bulk) recent_ = stage<scorer_tag>().protected_recent();
  }

  [[nodiscard]] KVSLIM_HD constexpr Policy const& policy() const noexcept { return policy_; }
  [[nodiscard]] KVSLIM_HD constexpr kvslim::extents const& extents() const noexcept {
    return extents_;
  }
  [[nodiscard]] KVSLIM_HD constexpr plan_options const& options() const noexcept {
    return options_;
  }
  template <class Tag>
  [[nodiscard]] KVSLIM_HD constexpr auto const& stage() const noexcept {
    return policy_.template get<Tag>();
  }

  /// Options and extents, checked without data.
  [[nodiscard]] constexpr status check() const noexcept {
    auto const& e = extents_;
    if (auto const s = detail::check_extents(e); !s) return s;
    if (e.tokens == 0)
      return detail::fail(errc::invalid_shape, "kvslim: the cache holds no tokens");
    if (options_.append_tokens < 0 || options_.append_tokens > extents::most_tokens)
      return detail::fail(errc::invalid_option, "kvslim: append_tokens must be in [0, 2^30]");
    if (e.tokens > extents::most_tokens - options_.append_tokens ||
        e.tokens + options_.append_tokens > extents::most_cells / e.rows())
      return detail::fail(errc::invalid_shape,
                          "kvslim: tokens and append_tokens are at most 2^30 a row, 2^40 in all");
    if (options_.row_slots < 0 || options_.row_slots > extents::most_tokens ||
        options_.row_slots > extents::most_cells / e.rows())
      return detail::fail(errc::invalid_option,
                          "kvslim: row_slots is at most 2^30 a row, 2^40 in all");
    if constexpr (scores_in_bulk)
      if (auto const s = stage<scorer_tag>().check(e); !s) return s;
    if constexpr (detail::is_shared<scorer_type>)
      if (!stage<scorer_tag>().rows.divides(e))
        return detail::fail(errc::invalid_shape,
                            "kvslim: shared rows must divide the view's sequences and kv_heads");
    if constexpr (has_quota) {
      auto const& q = stage<quota_tag>();
      if (auto const s = q.check(e); !s) return s;
      if (!q.group().divides(e))
        return detail::fail(errc::invalid_shape,
                            "kvslim: the quota's group must divide the view's sequences and "
                            "kv_heads");
      if (q.group().size() > (index_t{1} << 32) / e.tokens)
        return detail::fail(errc::invalid_shape, "kvslim: a quota's group has at most 2^32 tokens");
    }
    if constexpr (has_keep_rule)
      if (auto const s = stage<keep_tag>().check(e); !s) return s;
    if constexpr (has_merger)
      if (auto const s = stage<merger_tag>().check(); !s) return s;
    if constexpr (has_mover) {
      if (auto const s = stage<position_tag>().check(e); !s) return s;
      if (options_.evicts)
        return detail::fail(errc::unsupported,
                            "kvslim: a repositioner closes gaps once; it does not combine with "
                            "evicts");
    }
    if constexpr (has_index) {
      if (auto const s = stage<index_tag>().check(e); !s) return s;
      if (options_.evicts)
        return detail::fail(errc::unsupported,
                            "kvslim: an index summarises tokens that stay; it does not combine "
                            "with evicts");
    }
    return raw_layout().check();
  }

  /// How the compressed cache is stored: all that its readers need to know.
  [[nodiscard]] constexpr layout_type layout() const noexcept { return raw_layout(); }

  /// Most tokens that one row keeps.
  [[nodiscard]] constexpr index_t most_kept() const noexcept { return check() ? row_most() : 0; }
  /// Most tokens that all rows keep together.
  [[nodiscard]] constexpr index_t total_kept() const noexcept { return check() ? all_most() : 0; }
  /// Most slots that one row has room for: what it keeps and what is appended, or row_slots.
  [[nodiscard]] constexpr index_t most_slots() const noexcept {
    return check() ? room_for(row_most()) : 0;
  }
  /// Upper bound of the storage for the compressed cache; see packed_cache::bytes() for what is
  /// really used.
  [[nodiscard]] constexpr std::size_t packed_bytes() const noexcept {
    if (!check()) return 0;
    return raw_layout().bytes_at_most(
        all_most() + extents_.rows() * detail::max(options_.append_tokens, options_.row_slots),
        most_slots());
  }
  /// Memory of a keep set, for select() and encode() called one by one.
  [[nodiscard]] constexpr std::size_t keep_bytes() const noexcept {
    return counted([&](detail::carver& c) { static_cast<void>(carve_keep(c)); });
  }
  /// Workspace of select(), of encode(), and of compress(), which calls both.
  [[nodiscard]] constexpr std::size_t select_bytes() const noexcept {
    return counted([&](detail::carver& c) { static_cast<void>(carve_select(c)); });
  }
  [[nodiscard]] constexpr std::size_t encode_bytes() const noexcept {
    return counted([&](detail::carver& c) { static_cast<void>(carve_encode(c)); });
  }
  [[nodiscard]] constexpr std::size_t workspace_bytes() const noexcept {
    std::size_t const one = select_bytes(), two = encode_bytes();
    return keep_bytes() + (one > two ? one : two);
  }

  /// A keep set in memory of keep_bytes().
  [[nodiscard]] constexpr keep_set keep(workspace memory) const noexcept {
    if (!check() || memory.bytes < keep_bytes()) return {};
    detail::carver c(memory.data);
    return carve_keep(c);
  }

  // For the verbs of run/.
  [[nodiscard]] KVSLIM_HD constexpr index_t room_for(index_t kept) const noexcept {
    return detail::max(kept + options_.append_tokens, options_.row_slots);
  }
  [[nodiscard]] constexpr keep_set carve_keep(detail::carver& c) const noexcept {
    index_t const rows = extents_.rows(), all = rows * extents_.tokens;
    keep_set k{};
    k.room = all_most();
    k.begins = c.take<std::int64_t>(rows + 1);
    k.cells = c.take<std::int32_t>(k.room);
    k.ranks = c.take<std::int32_t>(k.room);
    if constexpr (has_merger) k.merged = c.take<std::int32_t>(all);
    if constexpr (assigns) {
      k.fold.target = k.merged;
      k.fold.strength = c.take<float>(all);
      k.fold.begins = c.take<std::int32_t>(all + rows);
      k.fold.sources = c.take<std::int32_t>(all);
      if (index_t const bytes = row_bytes(); bytes > 0)
        k.fold.memory = c.take<std::byte>(rows * bytes);
    }
    if constexpr (observes) k.columns = c.take<std::byte>(k.room * column_bytes);
    k.order_cells = c.take<std::int32_t>(all);
    k.order_counts = c.take<std::int32_t>(rows);
    return k;
  }
  [[nodiscard]] constexpr detail::select_space carve_select(detail::carver& c) const noexcept {
    index_t const rows = extents_.rows(), all = rows * extents_.tokens;
    detail::select_space w{};
    w.keys = c.take<std::uint64_t>(all);
    w.fates = c.take<fate>(all);
    w.good = c.take<std::uint8_t>(rows);
    if constexpr (has_scorer) {
      w.scores = c.take<float>(all);
      w.columns = c.take<std::byte>(all * column_bytes);
      w.scratch = c.take<float>(rows * score_floats());
    }
    if constexpr (reads_statistics) w.stated = c.take<row_statistics>(rows);
    if constexpr (has_quota) {
      w.facts = c.take<row_facts>(rows);
      w.quotas = c.take<quota>(rows);
      w.grouped_quotas = c.take<quota>(rows);
    }
    if constexpr (has_keep_rule)
      w.rule = c.take<std::byte>(stage<keep_tag>().scratch_bytes(extents_));
    if constexpr (assigns)
      w.staging = c.take<float>(rows * stage<merger_tag>().scratch_floats(extents_));
    else if constexpr (has_merger)
      w.staging = c.take<float>(rows * 2 * extents_.head_dim);
    return w;
  }
  [[nodiscard]] constexpr detail::encode_space carve_encode(detail::carver& c) const noexcept {
    index_t const rows = extents_.rows();
    detail::encode_space w{};
    w.good = c.take<std::uint8_t>(rows);
    w.capacities = c.take<index_t>(rows);
    w.staging = c.take<float>(rows * staging_floats());
    return w;
  }
  /// Floats of encode's staging per row: a block of every member, two rows of either half, a
  /// merger's three, and a fit's scratch.
  [[nodiscard]] constexpr index_t staging_floats() const noexcept {
    auto const l = raw_layout();
    return l.block_floats() + 5 * wide() +
           detail::max(l.key_sizes(extents_.tokens).fit_floats,
                       l.value_sizes(extents_.tokens).fit_floats);
  }
  /// Bytes that the merger remembers of a row.
  [[nodiscard]] KVSLIM_HD constexpr index_t row_bytes() const noexcept {
    if constexpr (memory_id != 0) return stage<merger_tag>().row_bytes();
    return 0;
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t wide() const noexcept {
    return detail::max(extents_.head_dim, extents_.value_width());
  }
  /// Floats of scratch per row for the scorer: its own, or the pass that fills columns.
  [[nodiscard]] constexpr index_t score_floats() const noexcept {
    index_t floats = 0;
    if constexpr (scores_in_bulk) floats = stage<scorer_tag>().scratch_floats(extents_);
    if constexpr (observes) floats = detail::max(floats, ops::observe_floats(extents_));
    if constexpr (gates) floats = detail::max(floats, 3 * extents_.tokens);
    return floats;
  }
  /// Tokens that the scorer protects at the end of a row: its observation window.
  [[nodiscard]] KVSLIM_HD constexpr index_t protected_recent() const noexcept { return recent_; }

 private:
  template <class Carve>
  [[nodiscard]] constexpr std::size_t counted(Carve const& carve) const noexcept {
    if (!check()) return 0;
    detail::carver c(nullptr);
    carve(c);
    return static_cast<std::size_t>(c.used());
  }
  [[nodiscard]] constexpr index_t row_most() const noexcept {
    if constexpr (has_quota)
      return detail::max(0, detail::min(stage<quota_tag>().most(extents_), extents_.tokens));
    else
      return extents_.tokens;
  }
  [[nodiscard]] constexpr index_t all_most() const noexcept {
    index_t const every = extents_.rows() * row_most();
    if constexpr (has_quota) {
      auto const& q = stage<quota_tag>();
      index_t const total = detail::max(0, q.total(extents_)), groups = q.group().groups(extents_);
      return total > every / groups ? every : detail::min(every, groups * total);
    } else {
      return every;
    }
  }
  [[nodiscard]] constexpr layout_type raw_layout() const noexcept {
    layout_type l{};
    l.key = stored::quantizer(policy_).key_codec();
    l.value = stored::quantizer(policy_).value_codec();
    l.extent = extents_;
    l.extent.tokens = 0;
    l.extent.value_dim = extents_.value_width();
    l.logit = options_.logit;
    l.draft_tokens = options_.append_tokens == 0 ? 0 : options_.draft_tokens;
    l.fingerprint = options_.fingerprint;
    if constexpr (has_mover)
      l.fingerprint = detail::mix(l.fingerprint, stage<position_tag>().fingerprint());
    bool const gaps = has_quota || has_merger || key_codec_type::traits.positions ||
                      value_codec_type::traits.positions;
    if (options_.evicts || options_.positions || (gaps && !has_mover))
      l.add({side_kind::position, 0, 1, 4});
    if (options_.evicts) l.add({side_kind::pin, 0, 1, 1});
    bool biased = options_.biases;
    if constexpr (has_merger) biased = biased || stage<merger_tag>().mass_bias();
    if (biased) l.add({side_kind::bias, 0, 1, 4});
    if (observes && options_.evicts)
      l.add({side_kind::column, 0, 1, static_cast<std::int32_t>(column_bytes)});
    if (row_bytes() > 0)
      l.add({side_kind::row_words, memory_id, 0, static_cast<std::int32_t>(row_bytes())});
    if constexpr (has_index) {
      using index = typename Policy::template stage_type<index_tag>;
      index_t const bytes = index::traits.fields * extents_.head_dim *
                            static_cast<index_t>(sizeof(detail::index_element<index>));
      l.add(
          {side_kind::page, index::traits.id,
           static_cast<std::int32_t>(stage<index_tag>().page_tokens()),
           static_cast<std::int32_t>(detail::round_up(bytes, 4) + (index::traits.grades ? 4 : 0))});
    }
    return l;
  }

  Policy policy_;
  kvslim::extents extents_;
  plan_options options_;
  index_t recent_ = 0;
};

/// Plans one compression. A single stage counts as a pipeline. Cost: arithmetic only.
template <class... Stages>
[[nodiscard]] constexpr auto make_plan(pipeline<Stages...> const& policy, extents const& e,
                                       plan_options options = {}) noexcept {
  return compression_plan<pipeline<Stages...>>(policy, e, options);
}
template <class Stage>
requires(!detail::is_pipeline<Stage>)
    [[nodiscard]] constexpr auto make_plan(Stage const& stage, extents const& e,
                                           plan_options options = {}) noexcept {
  return compression_plan<pipeline<Stage>>(pipeline<Stage>(stage), e, options);
}

/// Budget that keeps `fraction` of `tokens`, rounded down as the references do (kvpress: trunc(T *
/// (1 - r)) with r removed); 0 for no number and what is not positive, all above 1.
[[nodiscard]] constexpr index_t budget_for(double fraction, index_t tokens) noexcept {
  if (!(fraction > 0.0) || tokens <= 0) return 0;
  if (fraction >= 1.0) return tokens;
  return static_cast<index_t>(static_cast<double>(tokens) * fraction);
}

KVSLIM_END_NAMESPACE
