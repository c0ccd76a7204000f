// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// attend() runs on an engine's worker thread with a small stack: the system's least and 16 KiB.

#include <kvslim/kvslim.hpp>

#include <pthread.h>
#include <unistd.h>

#include <cstdio>
#include <vector>

namespace {

using namespace kvslim;

/// A cache, a query of 16 heads for each of two KV heads, and where the answer goes.
template <class Policy>
struct scene {
  static constexpr extents extent{1, 2, 400, 128};
  std::vector<float> k, out, lse;
  compression_plan<pipeline<Policy>> plan;
  std::vector<std::byte> storage, scratch;
  packed_cache<typename compression_plan<pipeline<Policy>>::key_codec_type,
               typename compression_plan<pipeline<Policy>>::value_codec_type>
      packed;
  status result = {};

  explicit scene(Policy const& policy)
      : k(2 * 400 * 128),
        out(32 * 3 * 128),
        lse(32 * 3),
        plan(make_plan(policy, extent)),
        storage(plan.packed_bytes()),
        scratch(plan.workspace_bytes()),
        packed(plan, storage) {
    for (std::size_t i = 0; i < k.size(); ++i)
      k[i] = static_cast<float>(i * 7919 % 1009) / 1009.0f - 0.5f;
    result = compress(cpu{}, plan, dense_cache(k.data(), k.data(), extent), evidence<>{}, packed,
                      scratch);
  }
  static void* run(void* self) {
    auto& s = *static_cast<scene*>(self);
    attend_request<> const a{.q = dense_rows(s.k.data(), {1, 32, 3, 128}),
                             .out = dense_rows(s.out.data(), {1, 32, 3, 128}),
                             .lse = s.lse.data()};
    s.result = attend(cpu{}, s.packed, a);
    return nullptr;
  }
};

template <class Policy>
int fails(Policy const& policy) {
  scene<Policy> s(policy);
  if (!s.result) return 1;
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  auto const least = static_cast<std::size_t>(sysconf(_SC_THREAD_STACK_MIN));
  pthread_t thread;
  bool const started = pthread_attr_setstacksize(&attributes, least + (16 << 10)) == 0 &&
                       pthread_create(&thread, &attributes, scene<Policy>::run, &s) == 0;
  if (started) pthread_join(thread, nullptr);
  pthread_attr_destroy(&attributes);
  return started && s.result.ok() && s.out[5] != 0.0f ? 0 : 1;
}

}  // namespace

int main() {
  int const failed = fails(dense<f16>{}) + fails(dense<bf16>{}) + fails(kivi<2>{}) +
                     fails(kivi<4, 8>{}) + fails(int_per_token<4>{}) + fails(int_per_token<8>{});
  std::printf("%d of 6 failed\n", failed);
  return failed;
}
