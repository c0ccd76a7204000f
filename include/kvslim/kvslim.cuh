// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// kvslim.hpp and the CUDA backend.

#include <kvslim/kvslim.hpp>
#include <kvslim/ops/compact.cuh>
#include <kvslim/ops/copy_scores.cuh>
#include <kvslim/ops/top_k.cuh>
#include <kvslim/ops/window_scores.cuh>
#include <kvslim/run/attend.cuh>
#include <kvslim/run/compress.cuh>
