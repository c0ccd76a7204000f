// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Attention over keys that warps rebuild, on both backends over the same stored bytes: shapes that
// divide by nothing, spans that begin within a run, and a tail behind the last one. Exits 77
// (skipped) where there is no GPU.

#include "fields.hpp"

using namespace on_device;
using namespace kvslim;

namespace {

constexpr traits odd{.positions = true, .bias = true};

template <class Key>
auto with_dense_values(Key const& key) {
  return codec_pair{key, dense_value<f16>{}};
}

/// What a key of `rank` coordinates is stored and rebuilt by.
template <class Base, class T>
void latents(char const* method, Base const& base, T, index_t head_dim, index_t rank, rope const& r,
             index_t residual) {
  using inner = latent<Base, basis_from::prompt, false, T>;
  auto const policy = with_dense_values(
      rebuilt_key<inner>{{.base = base, .rank = rank, .residual = residual, .rounds = 2}, r});
  ask_all({"latents", {2, 2, 150, head_dim}, odd}, method, policy, false,
          {{.group = 1, .logits = true},
           {.group = 3, .tokens = 2, .splits = 3, .window = 70},
           {.group = 8, .splits = 2, .spans = true, .logits = true}});
}

}  // namespace

int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("skipped: no CUDA device\n");
    return 77;
  }
  every_field<f16>({"any order", {3, 2, 150, 40}, odd}, "xkv",
                   xkv<>{{.rows = {1, 2}, .key_rank = 21, .value_rank = 13, .residual = 5}}, false);
  every_field({"any order", {2, 2, 150, 36}, odd}, "kvquant",
              kvquant<3, 4, codebook_from::prompt>{{.sinks = 3, .outliers = 0.05f}}, false);
  latents("f16", dense_key<f16>{}, f16{}, 128, 64, {}, 0);
  latents("f16, neighbours", dense_key<f16>{}, f16{}, 80, 33, {.interleaved = true}, 9);
  latents("f16, some channels", dense_key<f16>{}, f16{}, 67, 8, {.dims = 22}, 40);
  latents("f16, none turned but two", dense_key<f16>{}, float{}, 33, 3, {.dims = 2}, 1);
  latents("bf16", dense_key<bf16>{}, bf16{}, 64, 20, {.base = 5e5f}, 3);
  latents("f32", dense_key<float>{}, float{}, 48, 48, {}, 0);
  latents("8 bit", token_key<8>{}, float{}, 96, 32, {}, 5);
  latents("4 bit", token_key<4>{}, f16{}, 64, 64, {}, 0);
  ask_all({"wide", {1, 1, 140, 512, 512}}, "f16",
          with_dense_values(rebuilt_key<latent<dense_key<f16>>>{{.rank = 40, .rounds = 1}, {}}),
          false, {{.group = 8}, {.group = 2, .splits = 2}});
  std::printf(failures == 0 ? "both backends agree\n" : "%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
