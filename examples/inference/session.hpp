// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// A model's cache as an inference engine holds it: dense while prefilling, then one kvslim cache
// per layer.

#include "gates.hpp"

#include <kvslim/exec/openmp.hpp>
#include <kvslim/kvslim.hpp>

#include <algorithm>
#include <chrono>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <stdexcept>
#include <vector>

namespace example {

/// Memory owned by the engine, aligned to whole cache lines.
class aligned_buffer {
 public:
  explicit aligned_buffer(std::size_t bytes) : size_(bytes), data_(new (align) std::byte[bytes]) {}
  [[nodiscard]] std::byte* data() const { return data_.get(); }
  [[nodiscard]] std::size_t size() const { return size_; }

 private:
  static constexpr std::align_val_t align{64};
  struct release {
    void operator()(std::byte* p) const { ::operator delete[](p, align); }
  };
  std::size_t size_;
  std::unique_ptr<std::byte[], release> data_;
};

inline void require(kvslim::status s) {
  if (!s) throw std::runtime_error(s.message);
}

/// Queries, keys and values of consecutive tokens that a model was shown, f32
/// [layer, head, token, dim].
class pass {
 public:
  pass(model_shape const& s, index_t tokens);

  [[nodiscard]] index_t tokens() const { return tokens_; }
  [[nodiscard]] model_shape const& shape() const { return shape_; }
  /// Token number `at`; it sees the first `length` tokens of `before`, if given, and this pass's
  /// own from `first` on.
  void step(model& m, index_t token, index_t position, index_t at, index_t first,
            pass const* before, index_t length);
  /// Rows of `heads` heads of some layers in the engine's own memory, [layer, head, n, dim] from
  /// token `begin` on.
  [[nodiscard]] kvslim::rows_view<float const> rows(std::vector<float> const& of, index_t heads,
                                                    index_t layer, index_t layers, index_t begin,
                                                    index_t n) const {
    index_t const d = shape_.head_dim, all = heads * tokens_ * d;
    return {of.data() + layer * all + begin * d, layers, heads, n, d, {all, tokens_ * d, d, 1}};
  }

  std::vector<float> q, k, v;
  std::vector<float> hidden;  ///< what the layers' projections read, [layer, token, width]

 private:
  model_shape shape_;
  index_t tokens_;
};

/// A second pass that shows a model its text again, a stretch at a time after the whole.
struct repetition {
  pass rows;
  std::vector<kvslim::probe_stretch> stretches;
};

/// One text's exact cache.
class prefilled {
 public:
  prefilled(model& m, std::vector<index_t> const& tokens);

  [[nodiscard]] index_t tokens() const { return text_.tokens(); }
  [[nodiscard]] model_shape const& shape() const { return text_.shape(); }
  /// The first `length` tokens of `layers` layers as that many sequences of one view, no copy.
  [[nodiscard]] auto cache(index_t layer, index_t layers, index_t length) const {
    using plane = kvslim::plane<float const, kvslim::strided>;
    auto const& s = shape();
    index_t const d = s.head_dim, n = tokens(), at = layer * s.kv_heads * n * d;
    kvslim::strided const layout{s.kv_heads * n * d, n * d, d, 1};
    return kvslim::cache_view<plane>{{layers, s.kv_heads, length, d},
                                     {text_.k.data() + at, layout},
                                     {text_.v.data() + at, layout}};
  }
  /// The queries of the `window` positions before `length`, of the same layers.
  [[nodiscard]] kvslim::rows_view<float const> window(index_t layer, index_t layers, index_t length,
                                                      index_t window) const {
    return text_.rows(text_.q, shape().q_heads, layer, layers, length - window, window);
  }
  /// The model's second look at the first `length` tokens; made once, while the length stays.
  [[nodiscard]] repetition const& repeated(index_t length) const;
  /// What gates of some layers read of the first `length` tokens.
  [[nodiscard]] kvslim::hidden_states<> hidden(index_t layer, index_t layers,
                                               index_t length) const {
    index_t const width = shape().width, all = tokens() * width;
    return {kvslim::rows_view<float const>{
        text_.hidden.data() + layer * all, layers, 1, length, width, {all, all, width, 1}}};
  }
  /// Queries of the first `length` tokens as they were before RoPE, [layer, head, length, dim].
  [[nodiscard]] std::vector<float> raw_queries(index_t length) const;

 private:
  model& model_;
  std::vector<index_t> words_;
  pass text_;
  mutable std::optional<repetition> repeated_;
  mutable index_t repeated_length_ = 0;
};

/// What compressing one text's cache cost.
struct sizes {
  std::size_t stored_bytes = 0, peak_bytes = 0, original_bytes = 0;
  double compress_ms = 0;
};

/// A compressed cache that can decode. One virtual call per token; the policy is a compile-time
/// type behind it.
class session {
 public:
  virtual ~session() = default;
  [[nodiscard]] sizes const& size() const { return sizes_; }
  virtual std::span<float const> decode(model& m, index_t token) = 0;

 protected:
  sizes sizes_;
};

/// Tables of a model's, [layer] and then as a method documents them for one layer.
struct loaded_tables {
  std::vector<float> key, value;
};

/// How a policy is run.
struct session_options {
  bool layers_together = false;  ///< all layers in one call: for quotas and scores across layers
  bool evicts = false;           ///< tokens leave at every step, back to the policy's quota
  index_t window = 32;           ///< newest queries that scorers look at
  bool repeats = false;          ///< scorers look at a second pass that repeats the text
  bool raw = false;              ///< scorers look at all queries before RoPE
  /// Scores [layer, kv_head, length] for policies that take them as given; may be null.
  std::vector<float> (*scores)(prefilled const&, index_t layer, index_t layers,
                               index_t length) = nullptr;
  std::function<loaded_tables const&()> tables = {};  ///< for codecs that load theirs
  std::shared_ptr<gates const> gated = {};            ///< for scorers that ask gates
};

template <class Policy>
class policy_session final : public session {
 public:
  using plan_type = decltype(kvslim::make_plan(std::declval<Policy const&>(), kvslim::extents{}));
  using packed_type = kvslim::packed_cache<typename plan_type::key_codec_type,
                                           typename plan_type::value_codec_type>;
  /// While decoding, token scorers choose victims, and every row has its own quota.
  static constexpr bool can_evict = [] {
    if constexpr (plan_type::has_quota) {
      using quota_type = typename plan_type::policy_type::template stage_type<kvslim::quota_tag>;
      return !plan_type::scores_in_bulk && !quota_type::traits.contests;
    }
    return false;
  }();

  /// Compresses the first `length` tokens of `text`, with room for `append` more.
  policy_session(prefilled const& text, Policy const& policy, index_t length, index_t append,
                 session_options options)
      : options_(options),
        per_cache_(options.layers_together ? text.shape().layers : 1),
        plan_(make(text.shape(), policy, length, append, options)) {
    auto const& s = text.shape();
    if (options.evicts && !can_evict) throw std::logic_error("this policy evicts only once");
    require(plan_.check());
    aligned_buffer const scratch(plan_.workspace_bytes());
    repetition const* const again = options.repeats ? &text.repeated(length) : nullptr;
    std::vector<float> const raw = options.raw ? text.raw_queries(length) : std::vector<float>{};
    auto const begin = std::chrono::steady_clock::now();
    for (index_t l = 0; l < s.layers; l += per_cache_) {
      storage_.emplace_back(plan_.packed_bytes());
      caches_.emplace_back(plan_, storage_.back());
      std::vector<float> given;
      if (options.scores != nullptr) given = options.scores(text, l, per_cache_, length);
      kvslim::evidence const evidence{
          kvslim::window_queries{text.window(l, per_cache_, length, options.window)},
          kvslim::token_scores<>{given.data()},
          second_pass(again, l),
          text.hidden(l, per_cache_, length),
          options.gated ? options.gated->of(l, per_cache_) : kvslim::gate_weights<>{},
          kvslim::raw_queries<>{
              raw.empty() ? kvslim::rows_view<float const>{}
                          : kvslim::dense_rows(raw.data() + l * s.q_heads * length * s.head_dim,
                                               {per_cache_, s.q_heads, length, s.head_dim})}};
      std::vector<float> said(static_cast<std::size_t>(plan_.extents().rows() * s.head_dim));
      using key = typename packed_type::key_codec_type;
      if constexpr (key::traits.tabled_fit) {  // it is told what the queries say
        kvslim::cpu const exec;
        if constexpr (requires { key::from; })  // divides keys by factors
          require(kvslim::ops::key_balance(exec, text.window(l, per_cache_, length, length),
                                           text.cache(l, per_cache_, length), said.data()));
        else  // chooses channels
          require(kvslim::ops::query_energy(
              exec, text.window(l, per_cache_, length, options.window), s.kv_heads, said.data()));
        caches_.back().bind({.key = said.data()});
      } else if (options.tables) {
        auto const& of = options.tables();
        auto const begins = [&](std::vector<float> const& table) {
          return table.data() + std::ssize(table) / s.layers * l;
        };
        caches_.back().bind({.key = begins(of.key), .value = begins(of.value)});
      }
      require(kvslim::compress(kvslim::cpu{}, plan_, text.cache(l, per_cache_, length), evidence,
                               caches_.back(), scratch));
      sizes_.stored_bytes += caches_.back().live_bytes();
    }
    sizes_.compress_ms =
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
    sizes_.original_bytes =
        2 * 2 * static_cast<std::size_t>(s.layers * s.kv_heads * length * s.head_dim);  // as f16
    sizes_.peak_bytes =
        sizes_.original_bytes + caches_.size() * plan_.packed_bytes() + plan_.workspace_bytes();
    auto const& layout = plan_.layout();
    std::size_t bytes = std::max({kvslim::append_bytes(layout), kvslim::settle_bytes(layout),
                                  kvslim::attend_bytes(layout, s.q_heads)});
    if constexpr (can_evict) bytes = std::max(bytes, kvslim::victim_bytes(plan_));
    scratch_.emplace_back(bytes);
    auto const heads = static_cast<std::size_t>(s.q_heads);
    lse_.resize(heads);
    stride_ = plan_.most_kept() + plan_.options().append_tokens;
    if (options.evicts) logits_.resize(heads * static_cast<std::size_t>(stride_));
    victims_.resize(static_cast<std::size_t>(plan_.extents().rows()));
  }

  std::span<float const> decode(model& m, index_t token) override {
    return m.step(token, caches_.front().next_position(0),
                  [&](index_t l, auto q, auto k, auto v, auto out) {
                    one_layer(m.shape(), l, q, k, v, out);
                  });
  }

 private:
  [[nodiscard]] kvslim::probes<> second_pass(repetition const* again, index_t layer) const {
    if (again == nullptr) return {};
    auto const& pass = again->rows;
    auto const& s = pass.shape();
    return {.queries = pass.rows(pass.q, s.q_heads, layer, per_cache_, 0, pass.tokens()),
            .keys = pass.rows(pass.k, s.kv_heads, layer, per_cache_, 0, pass.tokens()),
            .stretches = {again->stretches.data(), std::ssize(again->stretches)}};
  }
  static plan_type make(model_shape const& s, Policy const& policy, index_t length, index_t append,
                        session_options options) {
    kvslim::extents const e{options.layers_together ? s.layers : 1, s.kv_heads, length, s.head_dim};
    kvslim::plan_options with{.append_tokens = append, .evicts = options.evicts};
    // Where a new token takes the slot of one that left, rows never grow.
    if (options.evicts && kvslim::make_plan(policy, e, with).layout().refills())
      with.append_tokens = 2;
    return kvslim::make_plan(policy, e, with);
  }

  /// One token through one layer: append, attend, let tokens leave, settle.
  void one_layer(model_shape const& s, index_t l, std::span<float const> q,
                 std::span<float const> k, std::span<float const> v, std::span<float> out) {
    auto const& cache = caches_[static_cast<std::size_t>(l / per_cache_)];
    auto const& scratch = scratch_.front();
    kvslim::step const here{.first_sequence = l % per_cache_, .sequences = 1};
    kvslim::rows_shape const one{1, s.kv_heads, 1, s.head_dim}, many{1, s.q_heads, 1, s.head_dim};
    require(kvslim::append(kvslim::cpu{}, cache, kvslim::dense_rows(k.data(), one),
                           kvslim::dense_rows(v.data(), one), scratch, here));
    kvslim::attend_request<> const request{.q = kvslim::dense_rows(q.data(), many),
                                           .out = kvslim::dense_rows(out.data(), many),
                                           .lse = lse_.data(),
                                           .first_sequence = here.first_sequence,
                                           .logits = logits_.empty() ? nullptr : logits_.data(),
                                           .logits_stride = stride_};
    require(kvslim::attend(kvslim::cpu{}, cache, request, scratch));
    if constexpr (can_evict)
      if (options_.evicts) {
        if constexpr (plan_type::observes)
          require(kvslim::observe(kvslim::cpu{}, plan_.template stage<kvslim::scorer_tag>(), cache,
                                  request));
        require(
            kvslim::choose_victims(kvslim::cpu{}, plan_, cache, victims_.data(), scratch, here));
        require(kvslim::evict(kvslim::cpu{}, cache, victims_.data(), here));
      }
    // Codecs may share blocks between layers: all of them have come.
    if (l % per_cache_ == per_cache_ - 1) require(kvslim::settle(kvslim::cpu{}, cache, scratch));
  }

  session_options options_;
  index_t per_cache_;  // layers in one cache
  plan_type plan_;
  std::vector<aligned_buffer> storage_;
  std::vector<packed_type> caches_;
  std::vector<aligned_buffer> scratch_;
  std::vector<float> lse_, logits_;
  std::vector<std::int32_t> victims_;
  index_t stride_ = 0;
};

}  // namespace example
