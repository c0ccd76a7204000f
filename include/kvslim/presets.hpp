// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// Methods that are settings of others: one row each, a function object that makes the pipeline.
/// `presets::sage_kv{}({.budget = 1024})` is a pipeline like any other; add a quantizer to its
/// stages where one is wanted. A preset has no file of its own.

#include <kvslim/core/pipeline.hpp>
#include <kvslim/keep/chunkkv.hpp>
#include <kvslim/merge/d2o.hpp>
#include <kvslim/quant/int_per_token.hpp>
#include <kvslim/quant/rotated.hpp>
#include <kvslim/reposition/rerotate.hpp>
#include <kvslim/score/cake_scores.hpp>
#include <kvslim/score/fastkvzip.hpp>
#include <kvslim/score/finch.hpp>
#include <kvslim/score/h2o.hpp>
#include <kvslim/score/kvzip.hpp>
#include <kvslim/score/shared.hpp>
#include <kvslim/score/snapkv.hpp>
#include <kvslim/score/streaming_llm.hpp>
#include <kvslim/score/tova.hpp>
#include <kvslim/select/adakv.hpp>
#include <kvslim/select/cake.hpp>
#include <kvslim/select/dynamickv.hpp>
#include <kvslim/select/one_budget.hpp>
#include <kvslim/select/pyramidkv.hpp>
#include <kvslim/select/top_k.hpp>
#include <kvslim/select/windowkv.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace presets {

/// What a preset is told of the model and of the memory that there is.
struct scale {
  index_t budget = 0;    ///< tokens kept per KV head, on average where rows differ
  index_t layers = 1;    ///< sequences of the view that are layers of one request
  index_t kv_heads = 1;  ///< of a layer
};

/// TOVA as its authors run it. arXiv:2401.06104: the attention of the newest query
/// alone. Authors' code, TOVACache.reduce: the mean over all heads, one set for a layer, nothing
/// protected.
struct tova_layer {
  static constexpr char const *name = "TOVA", *source = "arXiv:2401.06104, TOVACache.reduce",
                              *what = "the newest query's attention, one set for a layer";
  [[nodiscard]] constexpr auto operator()(scale const& x) const noexcept {
    return pipeline{shared{tova{}, {1, x.kv_heads}}, top_k{{.budget = x.budget}}};
  }
};

/// SAGE-KV. arXiv:2503.08879: the attention of the prompt's last token chooses, once, beside sinks
/// and the newest tokens. No authors' code: softmax and its mean over a group's query heads, a
/// quarter of the budget for the newest tokens, and 4 sinks are ours.
struct sage_kv {
  static constexpr char const *name = "SAGE-KV", *source = "arXiv:2503.08879",
                              *what = "the last token's attention, sinks and the newest";
  [[nodiscard]] constexpr auto operator()(scale const& x) const noexcept {
    return pipeline{snapkv{{.window = 1, .pool = 1}},
                    top_k{{.budget = x.budget, .sinks = 4, .recent = x.budget / 4}}};
  }
};

/// kvpress's ObservedAttention. kvpress 0.5.5, observed_attention_press.py: H2O's sums over all
/// queries, divided by the queries that see a token, nothing protected.
struct observed_attention {
  static constexpr char const *name = "ObservedAttention",
                              *source = "kvpress, observed_attention_press.py",
                              *what = "mean attention of the queries that see a token";
  [[nodiscard]] constexpr auto operator()(scale const& x) const noexcept {
    return pipeline{h2o<>{{.per_query = true}}, top_k{{.budget = x.budget}}};
  }
};

/// H2O as its authors run it. arXiv:2306.14048; authors' scripts: heavy_ratio and recent_ratio are
/// equal.
struct h2o_halves {
  static constexpr char const *name = "H2O", *source = "arXiv:2306.14048, authors' scripts",
                              *what = "half heavy hitters, half the newest";
  [[nodiscard]] constexpr auto operator()(scale const& x) const noexcept {
    return pipeline{h2o<>{}, top_k{{.budget = x.budget, .recent = x.budget / 2}}};
  }
};

/// StreamingLLM with positions within the cache. arXiv:2309.17453, section 3; kvpress's
/// KeyRerotation over StreamingLLM.
struct streaming_llm_rerotated {
  static constexpr char const *name = "StreamingLLM, rerotated",
                              *source = "arXiv:2309.17453, section 3",
                              *what = "sinks and the newest, at positions within the cache";
  [[nodiscard]] constexpr auto operator()(scale const& x) const noexcept {
    return pipeline{streaming_llm{}, top_k{{.budget = x.budget}}, rerotate{}};
  }
};

/// FINCH with positions within the cache. TACL 2024 (a00716); kvpress 0.5.5,
/// finch_press.py, rerotate_keys. The window is the question.
struct finch_rerotated {
  static constexpr char const *name = "FINCH", *source = "TACL 2024 (a00716)",
                              *what = "the question's attention, at positions within the cache";
  index_t question = finch{}.opt.window;  ///< its tokens, which end the prompt

  [[nodiscard]] constexpr auto operator()(scale const& x) const noexcept {
    return pipeline{finch{{.window = question}}, top_k{{.budget = x.budget}}, rerotate{}};
  }
};

/// Ada-KV over SnapKV. arXiv:2407.11550, algorithm 2; authors' code, AdaptiveSnapKVCluster: window
/// 32, maximum pooling over 7, a group reduced before pooling; alpha 0.2 of their runs.
struct ada_snapkv {
  static constexpr char const *name = "Ada-SnapKV", *source = "arXiv:2407.11550, algorithm 2",
                              *what = "heads of a layer compete with SnapKV's scores";
  [[nodiscard]] constexpr auto operator()(scale const& x) const noexcept {
    return pipeline{
        snapkv{{.window = 32, .pool = 7, .kind = pooling::maximum, .reduce_first = true}},
        adakv{{.budget = x.budget, .kv_heads = x.kv_heads}}};
  }
};

/// PyramidKV. arXiv:2406.02069; authors' code, PyramidKVCluster: window 8, maximum
/// pooling over 7, a group reduced before pooling, beta 20.
struct pyramid_snapkv {
  static constexpr char const *name = "PyramidKV", *source = "arXiv:2406.02069, PyramidKVCluster",
                              *what = "SnapKV's scores, more for lower layers";
  [[nodiscard]] constexpr auto operator()(scale const& x) const noexcept {
    return pipeline{
        snapkv{{.window = 8, .pool = 7, .kind = pooling::maximum, .reduce_first = true}},
        pyramidkv{{.budget = x.budget, .layers = x.layers, .kv_heads = x.kv_heads}}};
  }
};

/// CAKE. arXiv:2503.12491, sections 3 and 4: its scores and its budgets of layers, with the
/// authors' defaults; their temperatures, which belong to a model, are 1.
struct cake_layers {
  static constexpr char const *name = "CAKE", *source = "arXiv:2503.12491, sections 3 and 4",
                              *what = "layers by preference, tokens by attention and how it varies";
  [[nodiscard]] constexpr auto operator()(scale const& x) const noexcept {
    return pipeline{cake_scores{},
                    cake{{.budget = x.budget, .layers = x.layers, .kv_heads = x.kv_heads}}};
  }
};

/// DynamicKV. arXiv:2412.14838, algorithm 1; authors' code, DynamicKVClusterV11: window 16, pooling
/// over 7.
struct dynamic_kv {
  static constexpr char const *name = "DynamicKV", *source = "arXiv:2412.14838, algorithm 1",
                              *what = "layers compete with SnapKV's scores";
  [[nodiscard]] constexpr auto operator()(scale const& x) const noexcept {
    return pipeline{snapkv{{.window = 16, .pool = 7}},
                    dynamickv{{.budget = x.budget, .layers = x.layers, .kv_heads = x.kv_heads}}};
  }
};

/// WindowKV. arXiv:2503.17922; authors' code, strategy `average`: windows of 16 tokens,
/// groups of 8 layers (all, where there are fewer) whose first decides, a suffix of 32.
struct window_kv {
  static constexpr char const *name = "WindowKV", *source = "arXiv:2503.17922, WindowKVCluster",
                              *what = "whole windows, the same in a group of layers";
  [[nodiscard]] constexpr auto operator()(scale const& x) const noexcept {
    windowkv quota{{.layers = x.layers, .kv_heads = x.kv_heads}};
    quota.opt.budget = detail::max(1, x.budget - quota.opt.recent);  // theirs is without the suffix
    quota.opt.group_layers = detail::min(quota.opt.group_layers, x.layers);
    return pipeline{shared{snapkv{{.window = quota.opt.recent, .pool = 1}},
                           {quota.opt.group_layers, x.kv_heads},
                           reduce::mean,
                           true},
                    quota, chunkkv{{.size = quota.opt.size}}};
  }
};

/// ChunkKV. arXiv:2502.00299; kvpress 0.5.5, chunkkv_press.py: SnapKV's scores, summed
/// over a layer's heads, chunks of 20.
struct chunk_kv {
  static constexpr char const *name = "ChunkKV", *source = "arXiv:2502.00299, chunkkv_press.py",
                              *what = "whole chunks by SnapKV's scores, one set for a layer";
  [[nodiscard]] constexpr auto operator()(scale const& x) const noexcept {
    return pipeline{shared{snapkv{}, {1, x.kv_heads}, reduce::sum}, top_k{{.budget = x.budget}},
                    chunkkv{{.size = 20}}};
  }
};

/// KVzip with budgets that differ from head to head. arXiv:2505.23416; kvpress 0.5.5,
/// kvzip_press.py, `layerwise = False`: all layers' scores are ranked together.
struct kvzip_pairs {
  static constexpr char const *name = "KVzip", *source = "arXiv:2505.23416, kvzip_press.py",
                              *what = "KVzip's scores of all layers ranked together";
  [[nodiscard]] constexpr auto operator()(scale const& x) const noexcept {
    return pipeline{kvzip{}, one_budget{{.budget = x.budget, .rows = {x.layers, x.kv_heads}}}};
  }
};

/// Fast KVzip. arXiv:2601.17668; kvpress 0.5.5, fastkvzip_press.py: the gate's scores of all layers
/// ranked together.
struct fast_kvzip {
  static constexpr char const *name = "Fast KVzip",
                              *source = "arXiv:2601.17668, fastkvzip_press.py",
                              *what = "a gate's scores of all layers ranked together";
  [[nodiscard]] constexpr auto operator()(scale const& x) const noexcept {
    return pipeline{fastkvzip{}, one_budget{{.budget = x.budget, .rows = {x.layers, x.kv_heads}}}};
  }
};

/// D2O after the prompt and while decoding. arXiv:2406.13035, section 3.3; authors' code,
/// D2O_LayerKVCache: H2O's sums, the first 4 tokens, as many newest tokens as heavy ones, a
/// threshold that runs on with 0.5 and 0.5. `d2o_budgets` makes a layer's budget.
struct d2o_running {
  static constexpr char const *name = "D2O", *source = "arXiv:2406.13035, section 3.3",
                              *what = "H2O, and what is alike enough joins";
  [[nodiscard]] constexpr auto operator()(scale const& x) const noexcept {
    return pipeline{h2o<>{}, top_k{{.budget = x.budget, .sinks = 4, .recent = x.budget / 2}},
                    d2o{{.running = true}}};
  }
};

/// QServe's KV4. arXiv:2405.04532: 4 bits with a scale and an offset for each token
/// and head; its smoothing of K lies in the model's weights. Atom's KV4 (arXiv:2310.19102) is the
/// same form.
struct qserve_kv4 {
  static constexpr char const *name = "QServe KV4", *source = "arXiv:2405.04532",
                              *what = "4 bits, a scale for each token and head (also Atom's)";
  [[nodiscard]] constexpr auto operator()(scale const&) const noexcept {
    return pipeline{int_per_token<4>{}};
  }
};

/// QuaRot's KV4. arXiv:2404.00456: the same behind a Hadamard rotation of each head.
/// SpinQuant's (arXiv:2405.16406, R3) is the same form, its learned rotation of V in the weights.
struct quarot_kv4 {
  static constexpr char const *name = "QuaRot KV4", *source = "arXiv:2404.00456",
                              *what = "QServe's behind a Hadamard rotation (also SpinQuant's)";
  [[nodiscard]] constexpr auto operator()(scale const&) const noexcept {
    return pipeline{rotated{int_per_token<4>{}}};
  }
};

/// Calls use(preset) for every row.
template <class Use>
constexpr void each(Use const& use) {
  const auto all = [&](auto const&... rows) { (use(rows), ...); };
  all(tova_layer{}, sage_kv{}, observed_attention{}, h2o_halves{}, streaming_llm_rerotated{},
      finch_rerotated{}, ada_snapkv{}, pyramid_snapkv{}, cake_layers{}, dynamic_kv{}, window_kv{},
      chunk_kv{}, kvzip_pairs{}, fast_kvzip{}, d2o_running{}, qserve_kv4{}, quarot_kv4{});
}

}  // namespace presets

KVSLIM_END_NAMESPACE
