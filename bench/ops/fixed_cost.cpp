// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// What a call costs before there is much to do: attention over eight rows of a few tokens, and a
// token appended to each of eight rows. 32 query heads, 128 channels, everything in the first
// caches.

#include "support/beside.hpp"
#include "support/data.hpp"

using namespace kvslim;

namespace {

template <class Policy>
void attend_8_rows(benchmark::State& state, Policy const& policy) {
  bench::cache const c({1, 8, state.range(0), 128}, 32);
  bench::run const r(policy, c);
  bench::buffer const scratch(attend_bytes(r.packed.layout(), 32));
  std::vector<float> out(32 * 128);
  bool done = r.compress(c);
  for (auto _ : state)
    done = done && bench::attend(r.packed, c, out, scratch, attend_precision::tight);
  if (!done) state.SkipWithError("attend failed");
}

template <class Policy>
void append_8_rows(benchmark::State& state, Policy const& policy) {
  bench::cache const c({1, 8, 64, 128}, 32);
  bench::run const r(policy, c, {.append_tokens = 1024, .draft_tokens = 1024});
  bench::buffer const scratch(append_bytes(r.packed.layout()));
  rows_shape const one{1, 8, 1, 128};
  auto const k = dense_rows<host_space>(c.k.data(), one),
             v = dense_rows<host_space>(c.v.data(), one);
  bool done = true;
  for (index_t n = 0; auto _ : state) {
    if (n++ % 1024 == 0) {
      state.PauseTiming();
      done = done && r.compress(c);
      state.ResumeTiming();
    }
    done = done && append(cpu{}, r.packed, k, v, scratch).ok();
  }
  if (!done) state.SkipWithError("append failed");
}

template <class Policy>
int add(std::string const& name, Policy const& policy) {
  benchmark::RegisterBenchmark(("attend_8_rows/" + name).c_str(), attend_8_rows<Policy>, policy)
      ->ArgName("tokens")
      ->Arg(1)
      ->Arg(32)
      ->Unit(benchmark::kMicrosecond);
  benchmark::RegisterBenchmark(("append_8_rows/" + name).c_str(), append_8_rows<Policy>, policy)
      ->Unit(benchmark::kMicrosecond);
  return 0;
}
[[maybe_unused]] int const registered[] = {
    add("f16", dense<f16>{}), add("int4", int_per_token<4>{}), add("kivi4", kivi<4>{})};

}  // namespace
