// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// kvslim.hpp and the CUDA backend.

#include <kvslim/kvslim.hpp>
#include <kvslim/ops/attention_mass.cuh>
#include <kvslim/ops/blend_scores.cuh>
#include <kvslim/ops/chunk_places.cuh>
#include <kvslim/ops/chunks.cuh>
#include <kvslim/ops/code_distance.cuh>
#include <kvslim/ops/compact.cuh>
#include <kvslim/ops/expected_attention.cuh>
#include <kvslim/ops/following.cuh>
#include <kvslim/ops/hidden_gate.cuh>
#include <kvslim/ops/join_least.cuh>
#include <kvslim/ops/key_balance.cuh>
#include <kvslim/ops/lag_scores.cuh>
#include <kvslim/ops/mean_direction.cuh>
#include <kvslim/ops/norm_shares.cuh>
#include <kvslim/ops/open_pages.cuh>
#include <kvslim/ops/pair_in_chunks.cuh>
#include <kvslim/ops/probe_scores.cuh>
#include <kvslim/ops/projected_norms.cuh>
#include <kvslim/ops/query_energy.cuh>
#include <kvslim/ops/representatives.cuh>
#include <kvslim/ops/rest_of.cuh>
#include <kvslim/ops/second_stage.cuh>
#include <kvslim/ops/window_moments.cuh>
#include <kvslim/run/append.cuh>
#include <kvslim/run/attend.cuh>
#include <kvslim/run/attend_segments.cuh>
#include <kvslim/run/decode.cuh>
#include <kvslim/run/encode.cuh>
#include <kvslim/run/evict.cuh>
#include <kvslim/run/join.cuh>
#include <kvslim/run/merge_attention.cuh>
#include <kvslim/run/observe.cuh>
#include <kvslim/run/recompress.cuh>
#include <kvslim/run/rewind.cuh>
#include <kvslim/run/select_pages.cuh>
#include <kvslim/run/settle.cuh>
