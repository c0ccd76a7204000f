// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Everything for the CPU. No CUDA, no Eigen.

#include <kvslim/adapt/flashinfer.hpp>
#include <kvslim/adapt/hugging_face.hpp>
#include <kvslim/adapt/layers.hpp>
#include <kvslim/adapt/llama_cpp.hpp>
#include <kvslim/adapt/llama_cpp_quantized.hpp>
#include <kvslim/adapt/vllm.hpp>
#include <kvslim/keep/chunkkv.hpp>
#include <kvslim/keep/kvcrush.hpp>
#include <kvslim/merge/kvmerger.hpp>
#include <kvslim/ops/compact.hpp>
#include <kvslim/quant/codec_pair.hpp>
#include <kvslim/quant/ggml.hpp>
#include <kvslim/quant/int_per_token.hpp>
#include <kvslim/quant/kivi.hpp>
#include <kvslim/reposition/rerotate.hpp>
#include <kvslim/run/append.hpp>
#include <kvslim/run/attend.hpp>
#include <kvslim/run/attend_segments.hpp>
#include <kvslim/run/decode.hpp>
#include <kvslim/run/encode.hpp>
#include <kvslim/run/evict.hpp>
#include <kvslim/run/join.hpp>
#include <kvslim/run/merge_attention.hpp>
#include <kvslim/run/observe.hpp>
#include <kvslim/run/recompress.hpp>
#include <kvslim/run/rewind.hpp>
#include <kvslim/run/select.hpp>
#include <kvslim/run/settle.hpp>
#include <kvslim/score/cake_scores.hpp>
#include <kvslim/score/expected_attention.hpp>
#include <kvslim/score/given_scores.hpp>
#include <kvslim/score/h2o.hpp>
#include <kvslim/score/keydiff.hpp>
#include <kvslim/score/knorm.hpp>
#include <kvslim/score/lagkv.hpp>
#include <kvslim/score/qfilters.hpp>
#include <kvslim/score/random_scores.hpp>
#include <kvslim/score/shared.hpp>
#include <kvslim/score/snapkv.hpp>
#include <kvslim/score/streaming_llm.hpp>
#include <kvslim/score/tova.hpp>
#include <kvslim/select/adakv.hpp>
#include <kvslim/select/cake.hpp>
#include <kvslim/select/coverage.hpp>
#include <kvslim/select/dynamickv.hpp>
#include <kvslim/select/head_classes.hpp>
#include <kvslim/select/head_table.hpp>
#include <kvslim/select/one_budget.hpp>
#include <kvslim/select/pyramidkv.hpp>
#include <kvslim/select/top_k.hpp>
#include <kvslim/store/inspect.hpp>
#include <kvslim/store/serialize.hpp>
