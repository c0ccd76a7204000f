// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// llama.cpp's live cache as a view of kvslim, found through the evaluation callback: K and V where
// the engine holds them (no copy), which cell every token lies in, and the newest queries (copied,
// because the engine reuses their memory).
//
// Hooks, with flash attention on: FLASH_ATTN_EXT names Q (after RoPE) and views of the tensors
// cache_k_l<N> and cache_v_l<N>; SET_ROWS into cache_k of the first layer names the cells that the
// new tokens were written to, which no public call tells.

#include "llama_cpp/engine.hpp"

#include <kvslim/adapt/layers.hpp>
#include <kvslim/adapt/llama_cpp.hpp>
#include <kvslim/core/evidence.hpp>

#include <cstring>

namespace example {

inline bool begins_with(char const* name, std::string_view with) {
  return std::string_view(name).starts_with(with);
}
/// The tensor that a view is one of.
inline ggml_tensor const* root_of(ggml_tensor const* t) {
  while (t->view_src != nullptr) t = t->view_src;
  return t;
}

class live_cache : public watcher {
 public:
  /// Keeps the newest `window` queries of every layer.
  live_cache(engine_model const& m, index_t window)
      : model_(m), window_(window), k_(static_cast<std::size_t>(m.layers)), v_(k_) {
    if (m.windowed)
      throw std::runtime_error("windowed layers have lost cells of their own: not evicted here");
  }

  /// Off while nobody will ask for them: every node that is seen costs the engine a stop.
  bool queries_wanted = true;

  bool wants(ggml_tensor const* t) override {
    return (t->op == GGML_OP_FLASH_ATTN_EXT && queries_wanted) || writes_first_keys(t);
  }
  void saw(ggml_tensor* t) override {
    if (t->op == GGML_OP_SET_ROWS) return saw_cells(t->src[1]);
    auto const *k = root_of(t->src[1]), *v = root_of(t->src[2]);
    auto const layer = layer_of(k, "cache_k_l");
    take_queries(layer, k, t->src[0]);
    take_values(layer, v, t->src[2]->ne[0], false);
  }

  /// To be called after every decode: the tokens before `next` have arrived.
  void arrived(llama_pos next) {
    llama_pos p = next - static_cast<llama_pos>(written_.size());
    for (auto const cell : written_) {
      if (cell >= std::ssize(positions_)) {
        positions_.resize(static_cast<std::size_t>(cell) + 1, 0);
        held_.resize(positions_.size(), 0);
      }
      positions_[static_cast<std::size_t>(cell)] = p++;
      held_[static_cast<std::size_t>(cell)] = 1;
    }
    written_.clear();
  }
  [[nodiscard]] index_t cells_held() const { return std::count(held_.begin(), held_.end(), 1); }
  [[nodiscard]] index_t bytes_held() const {
    return cells_held() * model_.layers * model_.kv_heads * (head_dim_ + value_dim_) * 2;
  }
  /// All layers as consecutive sequences of one view.
  [[nodiscard]] auto view() {
    using kvslim::f16;
    kvslim::extents const e{1, model_.kv_heads, std::ssize(positions_), head_dim_, value_dim_};
    using view_type = decltype(kvslim::adapt::llama_cpp<f16 const>({}));
    std::vector<view_type> layers;
    for (std::size_t l = 0; l < k_.size(); ++l)
      layers.push_back(
          kvslim::adapt::llama_cpp<f16 const>({.k = static_cast<f16 const*>(k_[l]->data),
                                               .v = static_cast<f16 const*>(v_[l]->data),
                                               .extent = e,
                                               .cells = k_[l]->ne[1],
                                               .v_transposed = transposed_,
                                               .positions = positions_.data(),
                                               .valid = held_.data()}));
    origins_.resize(2 * layers.size());
    kvslim::adapt::layers_view<view_type> all;
    if (auto const s =
            kvslim::adapt::layers(kvslim::slice<view_type const>{layers.data(), std::ssize(layers)},
                                  origins_.data(), all);
        !s)
      throw std::runtime_error(s.message);
    return all;
  }
  [[nodiscard]] kvslim::rows_view<float const> queries() const {
    return kvslim::dense_rows(queries_.data(), {model_.layers, model_.q_heads, window_, head_dim_});
  }

  /// Leaves the cells of `kept` alone: removes the others in runs of positions, and closes the gaps
  /// if asked. Returns the calls made. The newest token must be among those kept.
  index_t keep_only(engine& run, std::span<std::int32_t const> kept, bool close_gaps) {
    std::vector<std::pair<llama_pos, std::size_t>> order;  // by position
    for (std::size_t c = 0; c < held_.size(); ++c)
      if (held_[c] == 1) order.emplace_back(positions_[c], c);
    std::sort(order.begin(), order.end());
    std::vector<char> stays(held_.size(), 0);
    for (auto const c : kept) stays[static_cast<std::size_t>(c)] = 1;
    if (order.empty() || stays[order.back().second] == 0)
      throw std::runtime_error("the newest token must stay: the engine goes on from it");
    index_t calls = 0;
    llama_pos gone = 0;
    for (std::size_t i = 0; i < order.size();) {
      bool const stay = stays[order[i].second] != 0;
      std::size_t j = i;
      while (j < order.size() && (stays[order[j].second] != 0) == stay) ++j;
      llama_pos const begin = order[i].first, end = order[j - 1].first + 1;
      if (!stay) {
        if (!llama_memory_seq_rm(run.memory(), 0, begin, end))
          throw std::runtime_error("the engine removes no part of a sequence: recurrent layers?");
        for (auto k = i; k < j; ++k) held_[order[k].second] = 0;
        ++calls;
      } else if (close_gaps) {
        // The run before ended at `gone` positions less than where this one begins.
        llama_pos const shift = gone - begin;
        if (shift != 0) {
          llama_memory_seq_add(run.memory(), 0, begin, end, shift);
          ++calls;
        }
        for (auto k = i; k < j; ++k) positions_[order[k].second] += shift;
        gone = end + shift;
      }
      i = j;
    }
    if (close_gaps) run.next = gone;
    return calls;
  }

 protected:
  [[nodiscard]] engine_model const& model() const { return model_; }
  static bool writes_first_keys(ggml_tensor const* t) {
    return t->op == GGML_OP_SET_ROWS && std::string_view(root_of(t)->name) == "cache_k_l0";
  }
  void saw_cells(ggml_tensor const* indices) {
    for (index_t i = 0; i < indices->ne[0]; ++i)
      written_.push_back(indices->type == GGML_TYPE_I64
                             ? static_cast<std::int64_t const*>(indices->data)[i]
                             : static_cast<std::int32_t const*>(indices->data)[i]);
  }

  /// The layer that a persistent tensor of f16 belongs to.
  static std::size_t layer_of(ggml_tensor const* t, char const* prefix) {
    if (t->type != GGML_TYPE_F16 || !begins_with(t->name, prefix))
      throw std::runtime_error("this reads a cache of f16 in host memory, not " +
                               std::string(t->name));
    return static_cast<std::size_t>(std::atoi(t->name + std::strlen(prefix)));
  }
  /// q: [dim, token, query head]. Newest queries last: what is there moves up by as many as come.
  void take_queries(std::size_t layer, ggml_tensor const* k, ggml_tensor const* q) {
    k_.at(layer) = k;
    head_dim_ = q->ne[0];
    queries_.resize(static_cast<std::size_t>(model_.layers * model_.q_heads * window_ * head_dim_));
    index_t const n = std::min(q->ne[1], window_), stay = window_ - n;
    for (index_t h = 0; h < model_.q_heads; ++h) {
      auto const row = static_cast<index_t>(layer) * model_.q_heads + h;
      float* const mine = queries_.data() + row * window_ * head_dim_;
      std::copy(mine + n * head_dim_, mine + window_ * head_dim_, mine);
      for (index_t i = 0; i < n; ++i) {
        auto const at = (q->ne[1] - n + i) * static_cast<index_t>(q->nb[1]) +
                        h * static_cast<index_t>(q->nb[2]);
        std::memcpy(mine + (stay + i) * head_dim_, static_cast<char const*>(q->data) + at,
                    static_cast<std::size_t>(head_dim_) * sizeof(float));
      }
    }
  }
  void take_values(std::size_t layer, ggml_tensor const* v, index_t dim, bool transposed) {
    v_.at(layer) = v;
    value_dim_ = dim;
    transposed_ = transposed;
  }

 private:
  engine_model const& model_;
  index_t window_, head_dim_ = 0, value_dim_ = 0;
  bool transposed_ = false;
  std::vector<ggml_tensor const*> k_, v_;
  std::vector<float> queries_;
  std::vector<std::int64_t> written_;
  std::vector<std::int32_t> positions_;
  std::vector<std::uint8_t> held_;
  std::vector<index_t> origins_;
};

}  // namespace example
