// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// What side.cpp gives, compiled twice: with native flags and with those of every x86-64.

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

/// Copies of a stored cache, which both sides read: where memory lies makes a difference of its
/// own.
using stored_copies = std::vector<std::shared_ptr<std::byte>>;

/// attend() over the copies of a cache of some form by turns. No form: past the last.
struct flagged_attention {
  char const* form = nullptr;
  std::function<void(bool fast)> attend = {};
};

namespace bench_native {
/// Makes the copies, of `cold_bytes` together, where there are none.
flagged_attention attention_of(int form, long tokens, std::size_t cold_bytes,
                               stored_copies& copies);
}  // namespace bench_native
namespace bench_baseline {
flagged_attention attention_of(int form, long tokens, std::size_t cold_bytes,
                               stored_copies& copies);
}
