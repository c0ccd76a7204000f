// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/codec.hpp>
#include <kvslim/core/pipeline.hpp>
#include <kvslim/quant/dense.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Alignment that storage and workspace must have, in bytes: what std::vector<std::byte> gives. 64
/// and more avoids split cache lines.
inline constexpr index_t alignment_bytes = 16;

struct plan_options {
  index_t append_tokens = 0;  ///< room for tokens that decoding will append to every row
};

namespace detail {

/// Where the parts of one row lie, as offsets from the row's start. Pure arithmetic on a capacity
/// in tokens.
struct row_layout {
  index_t key_state, key_blocks, key_tail, value_state, value_blocks, value_tail, positions,
      log_weight, bytes;
};

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

  [[nodiscard]] KVSLIM_HD static constexpr quantizer_type quantizer(Policy const& p) noexcept {
    if constexpr (std::same_as<stage, no_stage>)
      return {};
    else
      return p.template get<quantizer_tag>();
  }
};

/// Hands out aligned pieces of a buffer; with a null base it only counts. Sizing and running use
/// the same carve.
class carver {
 public:
  KVSLIM_HD constexpr explicit carver(std::byte* base) noexcept : base_(base) {}
  template <class T>
  KVSLIM_HD T* take(index_t count) noexcept {
    auto* const at = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    used_ += round_up(count * static_cast<index_t>(sizeof(T)), 64);
    return at;
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t used() const noexcept { return used_; }

 private:
  std::byte* base_;
  index_t used_ = 0;
};

/// The pieces of a compress call's workspace.
struct workspace {
  float* scores;        // [rows, tokens]
  std::uint64_t* keys;  // [rows, tokens]
  std::uint8_t* flags;  // [rows, tokens]
  std::int32_t* kept;   // [rows, capacity]
  std::int32_t* runs;   // [rows, tokens], with a merger
  index_t* counts;      // [rows]
  float* staging;       // [rows, staging_floats]
  float* scratch;       // [rows, scorer's scratch]
  index_t staging_floats, scratch_floats;
};

}  // namespace detail

/// Everything that can be known before data is seen: captured options, extents, and sizes. Pure
/// arithmetic, no allocation.
template <class Policy>
class compression_plan {
  using storage = detail::storage_of<Policy>;

 public:
  using policy_type = Policy;
  static constexpr bool has_scorer = Policy::template has<scorer_tag>;
  static constexpr bool has_selector = Policy::template has<selector_tag>;
  static constexpr bool has_merger = Policy::template has<merger_tag>;
  static constexpr bool has_mover = Policy::template has<position_tag>;

  constexpr compression_plan(Policy const& policy, extents const& e, plan_options options) noexcept
      : policy_(policy), extents_(e), options_(options) {}

  [[nodiscard]] KVSLIM_HD constexpr Policy const& policy() const noexcept { return policy_; }
  [[nodiscard]] KVSLIM_HD constexpr kvslim::extents const& extents() const noexcept {
    return extents_;
  }
  [[nodiscard]] KVSLIM_HD constexpr plan_options const& options() const noexcept {
    return options_;
  }
  [[nodiscard]] KVSLIM_HD constexpr auto key_codec() const noexcept {
    return storage::quantizer(policy_).key_codec();
  }
  [[nodiscard]] KVSLIM_HD constexpr auto value_codec() const noexcept {
    return storage::quantizer(policy_).value_codec();
  }
  [[nodiscard]] KVSLIM_HD static constexpr std::uint32_t scheme() noexcept {
    return storage::quantizer_type::scheme();
  }

  /// Most tokens that one row holds right after compression.
  [[nodiscard]] KVSLIM_HD constexpr index_t kept_capacity() const noexcept {
    if constexpr (has_selector)
      return policy_.template get<selector_tag>().capacity(extents_.tokens);
    else
      return extents_.tokens;
  }
  /// True if rows may have gaps that something reads: then every kept token's position is stored (4
  /// bytes each).
  [[nodiscard]] KVSLIM_HD static constexpr bool keeps_positions() noexcept {
    constexpr bool read =
        uses_positions<typename storage::key_type> || uses_positions<typename storage::value_type>;
    return (has_selector || has_merger || read) && !has_mover;
  }
  /// True if a lane's blocks are shared by several sequences of the view.
  [[nodiscard]] KVSLIM_HD constexpr bool grouped() const noexcept {
    return group_of(key_codec()).size() > 1 || group_of(value_codec()).size() > 1;
  }
  [[nodiscard]] KVSLIM_HD constexpr bool keeps_log_weight() const noexcept {
    if constexpr (has_merger) return policy_.template get<merger_tag>().mass_bias();
    return false;
  }

  /// Options and extents, checked without data.
  [[nodiscard]] constexpr status check() const noexcept {
    auto const& e = extents_;
    if (e.sequences <= 0 || e.kv_heads <= 0 || e.head_dim <= 0 || e.head_dim > 1024)
      return detail::fail(errc::invalid_shape,
                          "kvslim: extents must be positive and head_dim at most 1024");
    if (e.tokens <= 0)
      return detail::fail(errc::invalid_shape, "kvslim: the cache holds no tokens");
    if (e.tokens >= (index_t{1} << 31) || options_.append_tokens < 0 ||
        options_.append_tokens >= (index_t{1} << 31) - e.tokens)
      return detail::fail(errc::invalid_shape,
                          "kvslim: tokens plus append_tokens must stay below 2^31");
    if constexpr (has_selector)
      if (auto const s = policy_.template get<selector_tag>().check(e); !s) return s;
    if constexpr (has_merger)
      if (auto const s = policy_.template get<merger_tag>().check(); !s) return s;
    if constexpr (has_mover)
      if (auto const s = policy_.template get<position_tag>().check(e); !s) return s;
    if (!group_of(key_codec()).divides(e) || !group_of(value_codec()).divides(e))
      return detail::fail(
          errc::invalid_shape,
          "kvslim: the codec's row group must divide the view's sequences and kv_heads");
    if (auto const s = check_codec(key_codec()); !s) return s;
    return check_codec(value_codec());
  }

  /// Bytes and places of row `row` if it can hold `capacity` tokens.
  [[nodiscard]] KVSLIM_HD constexpr detail::row_layout layout(index_t capacity,
                                                              index_t row) const noexcept {
    auto const key = key_codec();
    auto const value = value_codec();
    index_t const dim = extents_.head_dim;
    detail::row_layout at{};
    index_t used = 0;
    auto const take = [&](index_t bytes) {
      index_t const begin = used;
      used += detail::round_up(bytes, 64);
      return begin;
    };
    auto const leads = [&](auto const& codec) {
      return group_of(codec).member(extents_, row) == 0;
    };
    auto const blocks = [&](auto const& codec) {
      return leads(codec) ? detail::div_up(codec.coded(capacity), codec.block_tokens()) *
                                codec.block_bytes(dim)
                          : 0;
    };
    auto const state = [&](auto const& codec) {
      return leads(codec) ? state_bytes_of(codec, dim, codec.coded(capacity)) : 0;
    };
    at.key_state = take(state(key));
    at.key_blocks = take(blocks(key));
    at.key_tail = take(tail_bytes<dense_key<typename decltype(key_codec())::tail_type>>(
        key.tail_tokens(), capacity));
    at.value_state = take(state(value));
    at.value_blocks = take(blocks(value));
    at.value_tail = take(tail_bytes<dense_value<typename decltype(value_codec())::tail_type>>(
        value.tail_tokens(), capacity));
    at.positions = take(keeps_positions() ? capacity * 4 : 0);
    at.log_weight = take(keeps_log_weight() ? capacity * 4 : 0);
    at.bytes = used;
    return at;
  }

  /// Upper bound of the storage for the compressed cache; see packed_cache::bytes() for what is
  /// really used.
  [[nodiscard]] constexpr std::size_t packed_bytes() const noexcept {
    index_t const capacity = kept_capacity() + options_.append_tokens;
    index_t bytes = table_bytes();
    if (!grouped()) bytes += extents_.rows() * layout(capacity, 0).bytes;
    for (index_t r = 0; r < extents_.rows() && grouped(); ++r) bytes += layout(capacity, r).bytes;
    return static_cast<std::size_t>(bytes);
  }
  /// Rows of floats that one encode call may need: a block of every member.
  [[nodiscard]] KVSLIM_HD constexpr index_t block_rows() const noexcept {
    return detail::max(group_of(key_codec()).size() * key_codec().block_tokens(),
                       group_of(value_codec()).size() * value_codec().block_tokens());
  }
  /// Bytes of header and row table at the start of the storage.
  [[nodiscard]] KVSLIM_HD constexpr index_t table_bytes() const noexcept {
    return 128 + detail::round_up(extents_.rows() * 32, 64);
  }

  /// Bytes of scratch for compress, at most what a call touches.
  [[nodiscard]] constexpr std::size_t workspace_bytes() const noexcept {
    detail::carver count(nullptr);
    static_cast<void>(carve(count));
    return static_cast<std::size_t>(count.used());
  }

  [[nodiscard]] constexpr detail::workspace carve(detail::carver& c) const noexcept {
    index_t const rows = extents_.rows(), all = rows * extents_.tokens;
    detail::workspace w{};
    w.counts = c.take<index_t>(rows);
    w.kept = c.take<std::int32_t>(rows * kept_capacity());
    w.flags = c.take<std::uint8_t>(all);
    if constexpr (has_scorer) w.scores = c.take<float>(all);
    if constexpr (has_selector) w.keys = c.take<std::uint64_t>(all);
    if constexpr (has_merger) w.runs = c.take<std::int32_t>(all);
    w.staging_floats = staging_floats();
    w.staging = c.take<float>(rows * w.staging_floats);
    if constexpr (has_scorer) {
      if constexpr (requires(Policy const& p) {
                      p.template get<scorer_tag>().scratch_floats(kvslim::extents{});
                    })
        w.scratch_floats = policy_.template get<scorer_tag>().scratch_floats(extents_);
      w.scratch = c.take<float>(rows * w.scratch_floats);
    }
    return w;
  }

 private:
  template <class Codec>
  [[nodiscard]] constexpr status check_codec(Codec const& codec) const noexcept {
    if (auto const s = codec.check(extents_.head_dim); !s) return s;
    // Never called: nvcc would warn that what the concept asked of a codec in an unnamed namespace
    // is declared and not used.
    if constexpr (fitted_codec<Codec>)
      static_cast<void>([](Codec const& c, block_run const& run, std::byte* state, float* scratch) {
        c.fit(detail::no_rows{}, 0, run, state, scratch);
      });
    if (codec.whole_blocks() && codec.coded(extents_.tokens) % codec.block_tokens() != 0)
      return detail::fail(errc::invalid_option,
                          "kvslim: the codec writes whole blocks, yet codes a part of one");
    return {};
  }
  template <class Dense>
  [[nodiscard]] KVSLIM_HD constexpr index_t tail_bytes(index_t slots,
                                                       index_t capacity) const noexcept {
    Dense const tail;
    index_t const needed = detail::min(slots, capacity);  // a short row never fills its tail
    return detail::div_up(needed, tail.block_tokens()) * tail.block_bytes(extents_.head_dim);
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t staging_floats() const noexcept {
    return (block_rows() + 6) * extents_.head_dim +
           detail::max(fit_floats(key_codec()), fit_floats(value_codec()));
  }
  template <class Codec>
  [[nodiscard]] KVSLIM_HD constexpr index_t fit_floats(Codec const& codec) const noexcept {
    if constexpr (fitted_codec<Codec>)
      return codec.fit_floats(extents_.head_dim, kept_capacity());
    else
      return 0;
  }

  Policy policy_;
  kvslim::extents extents_;
  plan_options options_;
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
/// (1 - r)) with r removed).
[[nodiscard]] constexpr index_t budget_for(double fraction, index_t tokens) noexcept {
  return static_cast<index_t>(static_cast<double>(tokens) * fraction);
}

KVSLIM_END_NAMESPACE
