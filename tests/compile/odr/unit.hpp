// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

/// Compresses a small cache and returns the bytes and one decoded value.
float KVSLIM_ODR_FUNCTION() {
  using namespace kvslim;
  static float k[64 * 32], v[64 * 32];
  for (int i = 0; i < 64 * 32; ++i) k[i] = v[i] = static_cast<float>(i % 97) / 97.0f;
  auto const cache = dense_cache<host_space, float const>(k, v, {1, 1, 64, 32});
  auto const plan = make_plan(pipeline{knorm{}, top_k{{.budget = 40}}, kivi<4>{{.residual = 32}}}, cache.extents());
  alignas(256) static std::byte storage[1 << 16], scratch[1 << 17];
  packed_cache const packed(plan, storage, sizeof storage);
  if (!compress(cpu{}, plan, cache, evidence<>{}, packed, scratch, sizeof scratch)) return -1.0f;
  return static_cast<float>(packed.bytes()) + packed.key(0, 3, 5);
}
