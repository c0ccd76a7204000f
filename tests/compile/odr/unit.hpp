// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/exec/openmp.hpp>
#include <kvslim/kvslim.hpp>

#if defined(_OPENMP)
#include <omp.h>
#endif

#define KVSLIM_ODR_JOIN2(a, b) a##b
#define KVSLIM_ODR_JOIN(a, b) KVSLIM_ODR_JOIN2(a, b)

/// Compresses a small cache and returns the bytes and one decoded value.
float KVSLIM_ODR_FUNCTION() {
  using namespace kvslim;
  static float k[64 * 32], v[64 * 32];
  for (int i = 0; i < 64 * 32; ++i) k[i] = v[i] = static_cast<float>(i % 97) / 97.0f;
  auto const cache = dense_cache<host_space, float const>(k, v, {1, 1, 64, 32});
  auto const plan = make_plan(pipeline{knorm{}, top_k{{.budget = 40}}, kivi<4>{{.residual = 32}}},
                              cache.extents());
  alignas(256) static std::byte storage[1 << 16], scratch[1 << 17];
  packed_cache const packed(plan, storage, sizeof storage);
  if (!compress(cpu{}, plan, cache, evidence<>{}, packed, {scratch, sizeof scratch})) return -1.0f;
  // Attention over f16 blocks takes the conversion instruction where the flags have it.
  auto const exact = make_plan(dense<f16>{}, cache.extents());
  alignas(256) static std::byte f16_storage[1 << 16];
  packed_cache const f16_packed(exact, f16_storage, sizeof f16_storage);
  if (!compress(openmp{.threads = 2}, exact, cache, evidence<>{}, f16_packed,
                {scratch, sizeof scratch}))
    return -1.0f;
  static float out[32], lse[1];
  rows_shape const one{1, 1, 1, 32};
  attend_request<> const request{
      .q = dense_rows(k + 64, one), .out = dense_rows(out, one), .lse = lse};
  if (!attend(cpu{}, f16_packed, request)) return -1.0f;
  return static_cast<float>(packed.bytes()) + packed.key(0, 3, 5) + out[7];
}

#define KVSLIM_ODR_TEXT(x) #x
#define KVSLIM_ODR_NAME(x) KVSLIM_ODR_TEXT(x)

/// The name under which this unit's bodies live, and whether its OpenMP executor has more than one
/// thread: whatever the other units do.
char const* KVSLIM_ODR_JOIN(KVSLIM_ODR_FUNCTION, _name)() {
  return KVSLIM_ODR_NAME(KVSLIM_DETAIL_ABI);
}
int KVSLIM_ODR_JOIN(KVSLIM_ODR_FUNCTION, _threads)() {
  int threads = 1;
  kvslim::openmp{.threads = 3}.for_each(8, [&](kvslim::index_t) {
#if defined(_OPENMP)
#pragma omp critical
    threads = omp_get_num_threads();
#endif
  });
  return threads;
}

/// Values for which widen16 differs from to_float or narrow16 from from_float; -1 if this unit
/// should have the instruction's path and does not.
int KVSLIM_ODR_JOIN(KVSLIM_ODR_FUNCTION, _widen)() {
  using namespace kvslim;
#if defined(KVSLIM_ODR_NATIVE) && defined(__x86_64__) && !defined(__F16C__)
  return -1;
#endif
  int different = 0;
  for (unsigned i = 0; i < 65536; i += 16) {
    f16 in[16];
    float got[16], in_float[16];
    for (unsigned j = 0; j < 16; ++j) in[j].bits = static_cast<std::uint16_t>(i + j);
    detail::widen16(in, got);
    for (unsigned j = 0; j < 16; ++j) {
      float const want = to_float(in[j]);
      bool const nan = want != want;
      different +=
          nan ? got[j] == got[j]
              : detail::bit_cast<std::uint32_t>(got[j]) != detail::bit_cast<std::uint32_t>(want);
    }
    // Around every value and every tie, both signs; and floats spread over all patterns, NaN among
    // them.
    for (unsigned around : {0u, 1u, 0xfffu, 0x1000u, 0x1001u, 0x1fffu, 0x80000000u}) {
      f16 narrow[16];
      for (unsigned j = 0; j < 16; ++j)
        in_float[j] = detail::bit_cast<float>(
            around == 0x80000000u ? (i + j) * 65537u + 12345u
                                  : detail::bit_cast<std::uint32_t>(to_float(in[j])) + around);
      detail::narrow16(in_float, narrow);
      for (unsigned j = 0; j < 16; ++j) different += narrow[j] != from_float<f16>(in_float[j]);
    }
  }
  return different;
}
