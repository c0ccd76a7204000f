// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Random pipelines over random views, and random lives of what they store: `fuzz_life --seconds 60
// --seed N` under the sanitizers, or a libFuzzer target with KVSLIM_LIBFUZZER defined.

#include "life/table.hpp"

#include <chrono>
#include <cstring>
#include <string>

namespace life {

std::vector<entry> table() {
  std::vector<entry> all;
  for (auto const& part : {quantizers(), scorers(), observers(), bases(), low_ranks()})
    all.insert(all.end(), part.begin(), part.end());
  return all;
}

}  // namespace life

#if defined(KVSLIM_LIBFUZZER)

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  static auto const all = life::table();
  life::dice d(size, data, size);
  all[life::at(d.in(0, static_cast<life::index_t>(all.size()) - 1))].live(d);
  return 0;
}

#else

int main(int argc, char** argv) {
  double seconds = 60.0;
  std::uint64_t seed = 1, lives = 0, most = ~std::uint64_t{0};
  std::string only;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::strcmp(argv[i], "--seconds") == 0) seconds = std::atof(argv[i + 1]);
    if (std::strcmp(argv[i], "--seed") == 0) seed = std::strtoull(argv[i + 1], nullptr, 10);
    if (std::strcmp(argv[i], "--lives") == 0) most = std::strtoull(argv[i + 1], nullptr, 10);
    if (std::strcmp(argv[i], "--only") == 0) only = argv[i + 1];
  }
  auto const all = life::table();
  std::printf("fuzz_life --seed %llu, %zu policies\n", static_cast<unsigned long long>(seed),
              all.size());
  std::fflush(stdout);
  auto const begin = std::chrono::steady_clock::now();
  auto const spent = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  for (; lives < most && spent() < seconds; ++lives) {
    life::current_seed = seed + lives;
    life::dice d(life::current_seed * 0x9e3779b97f4a7c15u);
    auto const& one = all[static_cast<std::size_t>(life::current_seed % all.size())];
    if (!only.empty() && only != one.name) continue;
    life::where = one.name;
    one.live(d);
  }
  std::printf("%llu lives in %.0f s, no finding\n", static_cast<unsigned long long>(lives),
              spent());
  return 0;
}

#endif
