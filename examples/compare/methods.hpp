// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// The rows of the comparison: a name, a family (a colour of the plot) and how to make a session.

#include "inference/session.hpp"

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace example {

enum class family { exact, quantized, evicted, evicted_while_decoding, merged, low_rank, combined };

struct method {
  std::string name;
  family kind;
  std::function<std::unique_ptr<session>(prefilled const&, index_t length, index_t append)> make;
  std::string against = {};  ///< the row that this one is compared with, text by text
};

class calibration;

/// Every pipeline keeps the last 32 tokens and, where it evicts, 4 sinks. `bytes`: the model's
/// tokens are bytes. Without a text to calibrate on, methods that load tables are left out, and
/// without trained gates those that ask them.
std::vector<method> methods(model const& m, bool bytes,
                            std::shared_ptr<calibration const> const& text,
                            std::shared_ptr<gates const> const& gated);

/// Who chooses what a KV head keeps: the head itself, the heads of its layer together (one set, by
/// the mean or the maximum of their scores) or the layer's next head; and equal budgets against
/// Ada-KV's.
std::vector<method> head_methods(model const& m, bool bytes);

/// SnapKV's pooling kernel. Its authors' 5 tokens span about 21 bytes of text. Where a token is a
/// byte, a kernel of 5 would keep the name that a question repeats and drop the digits that follow
/// it.
constexpr index_t snapkv_pool(bool bytes) { return bytes ? 21 : 5; }

}  // namespace example
