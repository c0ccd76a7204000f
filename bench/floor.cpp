// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// attend() against a plain read of the bytes it stores and compress() against memcpy of its input,
// on every path that the processor has, sampled alternately in one run. Cold data: copies of a
// cache are rotated so that every call reads from memory. Prints medians and quartiles of per-round
// ratios of processor time. Arguments: --smoke, --encode (nothing but compress), or words that
// a row's name must hold one of.

#include "support/floor.hpp"

#include "support/data.hpp"
#include "support/read.hpp"

#include <cstdio>
#include <cstring>
#include <ctime>
#include <string>

// The instruction set of the library's inline namespace: which path the figures are of.
#define KVSLIM_BENCH_TEXT_(x) #x
#define KVSLIM_BENCH_TEXT(x) KVSLIM_BENCH_TEXT_(x)

namespace {

using namespace kvslim;

/// Of the processor, so that others who take turns on it do not count.
double seconds(auto const& body) {
  std::clock_t const begin = std::clock();
  body();
  return static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
}

std::uint64_t volatile sink;

struct settings {
  std::size_t cold_bytes;
  int rounds;
};

/// compress() of a cache, and a copy of what it reads.
template <class Policy>
class coding {
 public:
  coding(bench::run<Policy> const& r, bench::cache const& c)
      : run_(r), cache_(c), copy_(c.k.size() * 4) {}
  double encode_seconds() const {
    return seconds([&] {
      if (!run_.compress(cache_)) std::abort();
    });
  }
  double copy_seconds() const {
    return seconds([&] {
      std::size_t const half = cache_.k.size() * 2;
      std::memcpy(copy_.data(), cache_.k.data(), half);
      std::memcpy(copy_.data() + half, cache_.v.data(), half);
      sink = static_cast<std::uint64_t>(copy_[half]);
    });
  }

 private:
  bench::run<Policy> const& run_;
  bench::cache const& cache_;
  mutable std::vector<std::byte> copy_;
};

template <class Policy>
void measure(char const* name, Policy const& policy, index_t tokens, settings const& how) {
  bench::cache const c({1, 8, tokens, 128}, 32);
  bench::run<Policy> const first(policy, c);
  if (!first.compress(c)) std::abort();
  std::size_t const bytes = first.packed.bytes();
  std::vector<std::unique_ptr<bench::run<Policy>>> sets;
  for (std::size_t held = 0; held < how.cold_bytes || sets.size() < 2; held += bytes) {
    sets.push_back(std::make_unique<bench::run<Policy>>(policy, c));
    std::memcpy(sets.back()->storage.data(), first.storage.data(), bytes);
  }
  // A sample is a share of the sets, so that what is compared lies close in time.
  std::size_t const share = std::max<std::size_t>(1, sets.size() / 16);
  std::size_t at = 0;
  auto const next = [&]() -> bench::run<Policy> const& { return *sets[at++ % sets.size()]; };
  std::vector<float> out(32 * 128);
  bench::buffer const scratch(attend_bytes(first.packed.layout(), 32));
  auto const attend_share = [&](attend_precision precision) {
    for (std::size_t i = 0; i < share; ++i)
      if (!bench::attend(next().packed, c, out, scratch, precision)) std::abort();
  };
  auto const read_share = [&] {
    for (std::size_t i = 0; i < share; ++i) sink = bench::plain_read(next().storage.data(), bytes);
  };
  coding<Policy> const code(first, c);
  std::vector<isa::path> paths;
  for (auto const wanted : isa::every_path)
    if (isa::use(wanted) == wanted) paths.push_back(wanted);
  std::vector<bench::floor_rounds> results(paths.size());
  for (int i = 0; i < how.rounds; ++i) {
    for (std::size_t p = 0; p < paths.size(); ++p) {
      isa::use(paths[p]);
      double const before_copy = code.copy_seconds(), e = code.encode_seconds(),
                   after_copy = code.copy_seconds();
      double const before = seconds(read_share),
                   a = seconds([&] { attend_share(attend_precision::tight); }),
                   between = seconds(read_share),
                   fast = seconds([&] { attend_share(attend_precision::fast); }),
                   after = seconds(read_share);
      results[p].attend.push_back((before + between) / 2 / a);
      results[p].fast.push_back((between + after) / 2 / fast);
      results[p].encode.push_back((before_copy + after_copy) / 2 / e);
      results[p].gigabytes.push_back(static_cast<double>(share * bytes) / a * 1e-9);
    }
  }
  for (std::size_t p = 0; p < paths.size(); ++p)
    bench::print_floor((std::string(name) + ' ' + isa::name_of(paths[p])).c_str(), tokens,
                       static_cast<double>(bytes) / static_cast<double>(tokens), results[p]);
}

/// compress() alone against memcpy of its input before and after it, on every path.
template <class Policy>
void measure_encode(char const* name, Policy const& policy, index_t tokens, int rounds) {
  bench::cache const c({1, 8, tokens, 128}, 32);
  bench::run<Policy> const r(policy, c);
  coding<Policy> const code(r, c);
  code.encode_seconds();
  std::printf("%-24s %7lld", name, static_cast<long long>(tokens));
  for (auto wanted : {isa::path::portable, isa::path::avx2, isa::path::avx512, isa::path::neon}) {
    if (isa::use(wanted) != wanted) continue;
    std::vector<double> of_copy;
    for (int i = 0; i < rounds; ++i) {
      double const before = code.copy_seconds(), e = code.encode_seconds(),
                   after = code.copy_seconds();
      of_copy.push_back((before + after) / 2 / e);
    }
    auto const q = bench::quartiles(of_copy);
    std::printf("  %s %5.1f [%.1f-%.1f]", isa::name_of(wanted), 100 * q.median, 100 * q.low,
                100 * q.high);
  }
  std::printf("\n");
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  bool const smoke = argc > 1 && std::string(argv[1]) == "--smoke";
  if (argc > 1 && std::string(argv[1]) == "--encode") {
    std::printf("compress(), %% of memcpy's input rate, 8 KV heads of 128, f16, one thread\n");
    for (index_t tokens : {4096, 16384}) {
      auto const row = [&](char const* name, auto const& policy) {
        measure_encode(name, policy, tokens, 15);
      };
      row("int8 per token", int_per_token<8>{});
      row("int4 per token", int_per_token<4>{});
      row("KIVI 8 bit", kivi<8>{});
      row("KIVI 4 bit", kivi<4>{});
      row("KIVI 2 bit", kivi<2>{});
      row("f16", dense<f16>{});
      row("bf16", dense<bf16>{});
      row("ggml q8_0", ggml<ggml_block::q8_0>{});
      row("ggml q4_0", ggml<ggml_block::q4_0>{});
    }
    return 0;
  }
  settings const how =
      smoke ? settings{std::size_t{1} << 20, 3} : settings{std::size_t{700} << 20, 15};
  auto const wanted = [&](std::string const& name) {
    bool any = smoke || argc < 2;
    for (int i = 1; i < argc; ++i) any = any || name.find(argv[i]) != std::string::npos;
    return any;
  };
  std::printf(
      "one thread, 32 query and 8 KV heads of 128, K and V together; compiled as %s; "
      "attention takes %s here\n",
      KVSLIM_BENCH_TEXT(KVSLIM_DETAIL_ABI), isa::name_of(isa::current()));
  bench::print_floor_head();
  auto const row = [&](char const* name, auto const& policy, index_t tokens) {
    if (wanted(name)) measure(name, policy, tokens, how);
  };
  for (index_t tokens : smoke ? std::vector<index_t>{512} : std::vector<index_t>{4096, 16384}) {
    row("f16", dense<f16>{}, tokens);
    row("int8 per token", int_per_token<8>{}, tokens);
    row("int4 per token", int_per_token<4>{}, tokens);
    row("ggml q8_0", ggml<ggml_block::q8_0>{}, tokens);
    row("ggml q4_0", ggml<ggml_block::q4_0>{}, tokens);
    row("KIVI 8 bit", kivi<8>{}, tokens);
    row("KIVI 4 bit", kivi<4>{}, tokens);
    row("KIVI 2 bit", kivi<2>{}, tokens);
  }
  return 0;
}
