// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// What stored forms with groups, rotations, outliers or low ranks cost attention: its time over
// that of plain integers per token of the same bits, 32 query and 8 KV heads of 128, cold data,
// processor time in turns. Counters are medians for each path and precision.

#include "support/beside.hpp"
#include "support/data.hpp"

#include <string>

using namespace kvslim;

namespace {

#if defined(KVSLIM_BENCH_SMOKE)
constexpr std::size_t cold_bytes = std::size_t{1} << 20;
constexpr int rounds = 1;
#else
constexpr std::size_t cold_bytes = std::size_t{256} << 20;
constexpr int rounds = 61;
#endif

/// Attention over copies of one stored form.
template <class Policy>
class reader {
 public:
  reader(Policy const& policy, bench::cache const& c)
      : cache_(c),
        stored_(policy, c),
        compressed_(stored_.compress(c)),
        copies_(stored_, policy, c, cold_bytes),
        scratch_(attend_bytes(stored_.packed.layout(), c.q_heads)),
        out_(static_cast<std::size_t>(c.q_heads * c.extent.head_dim)) {}
  /// Seconds of one call; negative where something failed.
  double seconds(attend_precision precision) {
    bool done = compressed_;
    double const taken = bench::processor_seconds([&] {
      done = done && bench::attend(copies_.next().packed, cache_, out_, scratch_, precision);
    });
    return done ? taken : -1;
  }

 private:
  bench::cache const& cache_;
  bench::run<Policy> stored_;
  bool compressed_;
  bench::cold_copies<Policy> copies_;
  bench::buffer scratch_;
  std::vector<float> out_;
};

/// What was measured of one path and precision.
struct sample {
  isa::path path;
  attend_precision precision;
  std::vector<double> over_plain = {};
};

template <class Form, class Plain>
void over_plain(benchmark::State& state, Form const& form, Plain const& plain) {
  bench::cache const c({1, 8, state.range(0), 128}, 32);
  reader<Form> mine(form, c);
  reader<Plain> beside(plain, c);
  isa::path const best = isa::current();
  std::vector<sample> samples;
  for (auto const path : isa::every_path)
    if (isa::use(path) == path && (path != isa::path::portable || path == best))
      for (auto const precision : {attend_precision::tight, attend_precision::fast})
        samples.push_back({path, precision});
  for (auto _ : state) {
    double all = 0;
    for (sample& s : samples) {
      isa::use(s.path);
      double const base = beside.seconds(s.precision), time = mine.seconds(s.precision);
      if (base < 0 || time < 0) state.SkipWithError("compress or attend failed");
      s.over_plain.push_back(time / base);
      all += time;
    }
    state.SetIterationTime(all);
  }
  isa::use(best);
  for (sample const& s : samples)
    state.counters[std::string(isa::name_of(s.path)) +
                   (s.precision == attend_precision::fast ? "_fast" : "")] =
        bench::median(s.over_plain);
}

template <class Form, class Plain>
int add(char const* name, Form form, Plain plain) {
  benchmark::RegisterBenchmark(
      ("over_plain/" + std::string(name)).c_str(),
      [form, plain](benchmark::State& state) { over_plain(state, form, plain); })
      ->ArgName("tokens")
      ->Arg(1024)
      ->Arg(4096)
      ->Iterations(rounds)
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond);
  return 0;
}

[[maybe_unused]] int const registered[] = {
    add("kivi_8", kivi<8>{}, int_per_token<8>{}),
    add("kivi_4", kivi<4>{}, int_per_token<4>{}),
    add("kivi_2", kivi<2>{}, int_per_token<2>{}),
    add("rotated_int4", rotated{int_per_token<4>{}}, int_per_token<4>{}),
    add("gear_4", gear<4>{}, int_per_token<4>{}),
    add("gear_4_outliers_alone", gear<4>{{.rank = 0, .grown_rank = 0}}, int_per_token<4>{}),
};

}  // namespace
