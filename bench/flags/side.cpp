// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// attend() as the flags of this unit make it. KVSLIM_BENCH_SIDE: bench_native or bench_baseline.

#include "flags/side.hpp"

// A name of its own: of functions that both units have inline the linker would keep one.
#define bench KVSLIM_BENCH_SIDE
#include "support/data.hpp"

#include <cstdlib>

namespace bench {
namespace {

using namespace kvslim;

template <class Policy>
struct stored {
  cache const source;
  run<Policy> const first;
  std::vector<decltype(first.packed)> caches;
  buffer const scratch;
  std::vector<float> out;
  std::size_t at = 0;

  stored(Policy const& policy, index_t tokens, std::size_t cold_bytes, stored_copies& copies)
      : source({1, 8, tokens, 128}, 32),
        first(policy, source),
        scratch(attend_bytes(first.packed.layout(), 32)),
        out(32 * 128) {
    std::size_t const bytes = first.storage.size();
    if (copies.empty()) {
      if (!first.compress(source)) std::abort();
      for (std::size_t held = 0; held < cold_bytes; held += bytes) {
        auto const copy = std::make_shared<buffer>(bytes);
        std::memcpy(copy->data(), first.storage.data(), bytes);
        copies.emplace_back(copy, copy->data());
      }
    }
    for (auto const& copy : copies) caches.emplace_back(first.plan, copy.get(), bytes);
  }
  /// Over a share of the copies, so that what is compared lies close in time.
  void attend_some(attend_precision precision) {
    for (std::size_t i = 0; i < std::max<std::size_t>(1, caches.size() / 16); ++i)
      if (!attend(caches[at++ % caches.size()], source, out, scratch, precision)) std::abort();
  }
};

}  // namespace

flagged_attention attention_of(int form, long tokens, std::size_t cold_bytes,
                               stored_copies& copies) {
  auto const over = [&]<class Policy>(char const* name, Policy const& policy) {
    auto const all = std::make_shared<stored<Policy>>(policy, tokens, cold_bytes, copies);
    return flagged_attention{
        name, [all](bool fast) {
          all->attend_some(fast ? attend_precision::fast : attend_precision::tight);
        }};
  };
  switch (form) {
    case 0:
      return over("f16", dense<f16>{});
    case 1:
      return over("int8 per token", int_per_token<8>{});
    case 2:
      return over("int4 per token", int_per_token<4>{});
    case 3:
      return over("ggml q4_0", ggml<ggml_block::q4_0>{});
    case 4:
      return over("KIVI 8 bit", kivi<8>{});
    case 5:
      return over("KIVI 4 bit", kivi<4>{});
    case 6:
      return over("KIVI 2 bit", kivi<2>{});
    case 7:
      return over("GEAR 4 bit", gear<4>{});
    default:
      return {};
  }
}

}  // namespace bench
