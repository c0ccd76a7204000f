// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// attend() against a plain read of the bytes it stores by as many threads, and compress() against
// memcpy of its input, on every path that the processor has, sampled alternately in one run. Cold
// data: copies of a cache are rotated so that every call reads from memory. Prints medians and
// quartiles of per-round ratios of processor time (with several threads: of time), then geometric
// means over all shapes, and those to a file that floor.gnuplot draws. Arguments: --smoke, --encode
// (nothing but compress), --dat FILE, or words that a row's name must hold one of.

#include "support/floor.hpp"

#include "support/data.hpp"
#include "support/read.hpp"

#include <kvslim/exec/openmp.hpp>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <optional>
#include <string>
#include <thread>

// The instruction set of the library's inline namespace: which path the figures are of.
#define KVSLIM_BENCH_TEXT_(x) #x
#define KVSLIM_BENCH_TEXT(x) KVSLIM_BENCH_TEXT_(x)

namespace {

using namespace kvslim;

/// Of one thread: of the processor, so that others who take turns on it do not count.
double seconds(auto const& body, int threads = 1) {
  if (threads > 1) {
    auto const begin = std::chrono::steady_clock::now();
    body();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
  std::clock_t const begin = std::clock();
  body();
  return static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
}

std::uint64_t volatile sink;

struct settings {
  std::size_t cold_bytes;
  int rounds;
  std::vector<index_t> tokens;
  std::vector<index_t> sequences;
  std::vector<int> threads;
};

/// What one stored form reached on one path, of every shape.
struct mark {
  std::string form;
  isa::path path;
  int threads;
  double bits;  // stored for each number, of the longest shape
  std::vector<double> tight, fast, encode, one_pass;
};
std::vector<mark> marks;

mark& mark_of(std::string const& form, isa::path path, int threads) {
  for (auto& m : marks)
    if (m.form == form && m.path == path && m.threads == threads) return m;
  marks.push_back({form, path, threads, 0, {}, {}, {}, {}});
  return marks.back();
}
double geometric_mean(std::vector<double> const& x) {
  double sum = 0;
  for (double const y : x) sum += std::log(y);
  return x.empty() ? 0 : std::exp(sum / static_cast<double>(x.size()));
}
void print_marks(char const* file) {
  std::printf(
      "\ngeometric means over shapes, %% of a plain read (encoding: of memcpy), and the least "
      "shape\n"
      "%-32s %7s %6s %14s %14s %7s %11s\n",
      "stored as", "threads", "bits", "tight (least)", "fast (least)", "encode", "in one pass");
  std::FILE* const out = file != nullptr ? std::fopen(file, "w") : nullptr;
  for (auto const& m : marks) {
    auto const least = [](std::vector<double> const& x) {
      return 100 * *std::min_element(x.begin(), x.end());
    };
    double const tight = 100 * geometric_mean(m.tight), fast = 100 * geometric_mean(m.fast),
                 encode = 100 * geometric_mean(m.encode),
                 one_pass = 100 * geometric_mean(m.one_pass);
    std::printf("%-32s %7d %6.2f %6.1f (%5.1f) %6.1f (%5.1f)",
                (m.form + ' ' + isa::name_of(m.path)).c_str(), m.threads, m.bits, tight,
                least(m.tight), fast, least(m.fast));
    if (!m.encode.empty()) std::printf(" %7.1f %11.1f", encode, one_pass);
    std::printf("\n");
    if (out != nullptr)
      std::fprintf(out, "%s %d %.3f %.2f %.2f \"%s\"\n", isa::name_of(m.path), m.threads, m.bits,
                   tight, fast, m.form.c_str());
  }
  if (out != nullptr) std::fclose(out);
}

/// compress() of a cache, and a copy of what it reads.
template <class Policy>
class coding {
 public:
  coding(bench::run<Policy> const& r, Policy const& policy, bench::cache const& c)
      : run_(r), once_(policy, c, {.one_pass = true}), cache_(c), copy_(c.k.size() * 4) {}
  /// One value to each: the time of a copy over that of two passes, and over that of one.
  void measure(std::vector<double>& two, std::vector<double>& one) const {
    double const before = copy_seconds(), first = encode_seconds(run_), between = copy_seconds(),
                 second = encode_seconds(once_), after = copy_seconds();
    two.push_back((before + between) / 2 / first);
    one.push_back((between + after) / 2 / second);
  }

 private:
  double encode_seconds(bench::run<Policy> const& r) const {
    return seconds([&] {
      if (!r.compress(cache_)) std::abort();
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

  bench::run<Policy> const& run_;
  bench::run<Policy> once_;
  bench::cache const& cache_;
  mutable std::vector<std::byte> copy_;
};

template <class Policy>
void measure(char const* name, Policy const& policy, kvslim::extents const& e,
             settings const& how) {
  bench::cache const c(e, 32);
  bench::run<Policy> const first(policy, c);
  if (!first.compress(c)) std::abort();
  std::size_t const bytes = first.packed.bytes();
  bench::cold_copies<Policy> copies(first, policy, c, how.cold_bytes);
  std::size_t const share = copies.share();
  std::vector<float> out(static_cast<std::size_t>(e.sequences * 32 * 128));
  bench::buffer const scratch(attend_bytes(first.packed.layout(), 32));
  bool const encodes = e.sequences == 1 && e.tokens <= 16384,
             small = e.sequences == 1 && e.tokens == how.tokens.front();
  std::optional<coding<Policy>> code;
  if (encodes) code.emplace(first, policy, c);
  double const tokens = static_cast<double>(e.sequences * e.tokens);
  for (int const threads : how.threads) {
    std::vector<isa::path> paths;
    for (auto const wanted : isa::every_path)
      if (isa::use(wanted) == wanted &&
          (wanted != isa::path::portable || (small && threads == 1)))  // it takes long
        paths.push_back(wanted);
    openmp const exec{threads};
    auto const attend_seconds = [&](attend_precision precision) {
      return seconds(
          [&] {
            for (std::size_t i = 0; i < share; ++i)
              if (!bench::attend(copies.next().packed, c, out, scratch, precision, exec))
                std::abort();
          },
          threads);
    };
    auto const read_seconds = [&] {
      std::size_t const part = bytes / static_cast<std::size_t>(threads);
      return seconds(
          [&] {
            for (std::size_t i = 0; i < share; ++i) {
              std::byte const* const data = copies.next().storage.data();
              exec.for_each(threads, [&](index_t n) {
                sink = bench::plain_read(data + static_cast<std::size_t>(n) * part, part);
              });
            }
          },
          threads);
    };
    std::vector<bench::floor_rounds> results(paths.size());
    for (int i = 0; i < how.rounds; ++i) {
      for (std::size_t p = 0; p < paths.size(); ++p) {
        isa::use(paths[p]);
        auto& result = results[p];
        if (encodes && threads == 1) code->measure(result.encode, result.one_pass);
        double const before = read_seconds(), tight = attend_seconds(attend_precision::tight),
                     between = read_seconds(), fast = attend_seconds(attend_precision::fast),
                     after = read_seconds();
        result.attend.push_back((before + between) / 2 / tight);
        result.fast.push_back((between + after) / 2 / fast);
        result.gigabytes.push_back(static_cast<double>(share * bytes) / tight * 1e-9);
      }
    }
    for (std::size_t p = 0; p < paths.size(); ++p) {
      auto const& result = results[p];
      std::string const row = std::string(name) + ' ' + isa::name_of(paths[p]);
      bench::print_floor(row.c_str(), e.tokens, e.sequences, threads,
                         static_cast<double>(bytes) / tokens, result);
      mark& m = mark_of(name, paths[p], threads);
      m.bits = static_cast<double>(bytes) * 8 / (tokens * 8 * 128 * 2);
      m.tight.push_back(bench::quartiles(result.attend).median);
      m.fast.push_back(bench::quartiles(result.fast).median);
      if (result.encode.empty()) continue;
      m.encode.push_back(bench::quartiles(result.encode).median);
      m.one_pass.push_back(bench::quartiles(result.one_pass).median);
    }
  }
}

/// compress() alone against memcpy of its input before and after it, on every path.
template <class Policy>
void measure_encode(char const* name, Policy const& policy, index_t tokens, int rounds) {
  bench::cache const c({1, 8, tokens, 128}, 32);
  bench::run<Policy> const r(policy, c);
  coding<Policy> const code(r, policy, c);
  std::printf("%-24s %7lld", name, static_cast<long long>(tokens));
  for (auto wanted : isa::every_path) {
    if (isa::use(wanted) != wanted) continue;
    std::vector<double> two, one;
    code.measure(two, one);  // memory is met for the first time
    two.clear(), one.clear();
    for (int i = 0; i < rounds; ++i) code.measure(two, one);
    std::printf("  %s", isa::name_of(wanted));
    for (auto const& q : {bench::quartiles(two), bench::quartiles(one)})
      std::printf(" %5.1f [%.1f-%.1f]", 100 * q.median, 100 * q.low, 100 * q.high);
  }
  std::printf("\n");
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  bool const smoke = argc > 1 && std::string(argv[1]) == "--smoke";
  if (argc > 1 && std::string(argv[1]) == "--encode") {
    std::printf(
        "compress(), and in one pass, %% of memcpy's input rate, 8 KV heads of 128, f16, one "
        "thread\n");
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
  std::vector<int> threads{1};
#if defined(_OPENMP)
  if (std::thread::hardware_concurrency() > 1) threads.push_back(2);
#endif
  settings const how =
      smoke ? settings{std::size_t{1} << 20, 3, {512}, {1, 2}, threads}
            : settings{std::size_t{700} << 20, 7, {4096, 16384, 65536}, {1, 4}, threads};
  char const* file = nullptr;
  std::vector<std::string> words;
  for (int i = smoke ? 2 : 1; i < argc; ++i) {
    if (std::string(argv[i]) == "--dat" && i + 1 < argc)
      file = argv[++i];
    else
      words.emplace_back(argv[i]);
  }
  auto const wanted = [&](std::string const& name) {
    bool any = words.empty();
    for (auto const& word : words) any = any || name.find(word) != std::string::npos;
    return any;
  };
  std::printf(
      "32 query and 8 KV heads of 128, K and V together; compiled as %s; attention takes %s here\n",
      KVSLIM_BENCH_TEXT(KVSLIM_DETAIL_ABI), isa::name_of(isa::current()));
  bench::print_floor_head();
  auto const row = [&](char const* name, auto const& policy) {
    if (!wanted(name)) return;
    for (index_t const tokens : how.tokens)
      for (index_t const sequences : how.sequences)
        measure(name, policy, {sequences, 8, tokens, 128}, how);
  };
  row("f16", dense<f16>{});
  row("int8 per token", int_per_token<8>{});
  row("int4 per token", int_per_token<4>{});
  row("ggml q8_0", ggml<ggml_block::q8_0>{});
  row("ggml q4_0", ggml<ggml_block::q4_0>{});
  row("KIVI 8 bit", kivi<8>{});
  row("KIVI 4 bit", kivi<4>{});
  row("KIVI 2 bit", kivi<2>{});
  print_marks(file);
  return 0;
}
