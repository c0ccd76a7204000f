// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// attend() against a plain read of the bytes it stores, and compress() against memcpy of its input,
// sampled alternately in one run. Cold data: several caches are rotated so that every call reads
// from memory. Prints medians and quartiles of per-round ratios.

#include "support/floor.hpp"

#include "support/data.hpp"

#include <chrono>
#include <cstdio>
#include <cstring>
#include <string>

// The instruction set of the library's inline namespace: which path the figures are of.
#define KVSLIM_BENCH_TEXT_(x) #x
#define KVSLIM_BENCH_TEXT(x) KVSLIM_BENCH_TEXT_(x)

namespace {

using namespace kvslim;

double seconds(auto const& body) {
  auto const begin = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

std::uint64_t volatile sink;

/// Sums memory with eight independent streams: as fast as one thread reads.
void plain_read(std::byte const* data, std::size_t bytes) {
  auto const* const words = reinterpret_cast<std::uint64_t const*>(data);
  std::uint64_t sum[64] = {};
  for (std::size_t i = 0; i + 64 <= bytes / 8; i += 64)
    for (std::size_t j = 0; j < 64; ++j) sum[j] += words[i + j];
  std::uint64_t all = 0;
  for (auto s : sum) all += s;
  sink = all;
}

template <class Policy>
void measure(char const* name, Policy const& policy, index_t tokens, std::size_t cold_bytes,
             int rounds) {
  bench::cache const c({1, 8, tokens, 128}, 32);
  std::vector<std::unique_ptr<bench::run<Policy>>> sets;
  std::size_t held = 0;
  do {
    sets.push_back(std::make_unique<bench::run<Policy>>(policy, c));
    if (!sets.back()->compress(c)) return;
    held += sets.back()->packed.bytes();
  } while (held < cold_bytes);
  std::vector<float> out(32 * 128);
  bench::buffer const scratch(attend_bytes(sets.front()->packed.layout(), 32));
  auto const attend_all = [&] {
    for (auto const& s : sets)
      if (!bench::attend(s->packed, c, out, scratch)) std::abort();
  };
  auto const read_all = [&] {
    for (auto const& s : sets) plain_read(s->storage.data(), s->packed.bytes());
  };
  std::vector<std::byte> copy(c.k.size() * 4);
  auto const copy_source = [&] {
    std::memcpy(copy.data(), c.k.data(), c.k.size() * 2);
    std::memcpy(copy.data() + c.k.size() * 2, c.v.data(), c.v.size() * 2);
    sink = static_cast<std::uint64_t>(copy[copy.size() / 2]);
  };
  auto const encode = [&] {
    if (!sets.front()->compress(c)) std::abort();
  };
  std::vector<double> floor, input, gigabytes;
  for (int i = 0; i < rounds; ++i) {
    double const a = seconds(attend_all), r = seconds(read_all), m = seconds(copy_source),
                 e = seconds(encode);
    floor.push_back(r / a);
    input.push_back(m / e);
    gigabytes.push_back(static_cast<double>(held) / a * 1e-9);
  }
  bench::print_floor(
      name, tokens, static_cast<double>(sets.front()->packed.bytes()) / static_cast<double>(tokens),
      {floor, input, gigabytes});
}

}  // namespace

int main(int argc, char** argv) {
  bool const smoke = argc > 1 && std::string(argv[1]) == "--smoke";
  std::size_t const cold = smoke ? std::size_t{1} << 20 : std::size_t{256} << 20;
  int const rounds = smoke ? 3 : 9;
  std::printf("one thread, 32 query and 8 KV heads of 128, K and V together; compiled as %s\n",
              KVSLIM_BENCH_TEXT(KVSLIM_DETAIL_ABI));
  bench::print_floor_head();
  for (index_t tokens : smoke ? std::vector<index_t>{512} : std::vector<index_t>{4096, 16384}) {
    measure("f16", dense<f16>{}, tokens, cold, rounds);
    measure("int8 per token", int_per_token<8>{}, tokens, cold, rounds);
    measure("int4 per token", int_per_token<4>{}, tokens, cold, rounds);
    measure("KIVI 8 bit", kivi<8>{}, tokens, cold, rounds);
    measure("KIVI 4 bit", kivi<4>{}, tokens, cold, rounds);
    measure("KIVI 2 bit", kivi<2>{}, tokens, cold, rounds);
  }
  return 0;
}
