// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// What stores bytes, for fast_math.sh to read as PTX: every quantizer's encode by a warp, and fits.

#include <kvslim/kvslim.cuh>

namespace {

using namespace kvslim;

/// What a fit by a block asks of kept rows.
struct reader {
  float* rows;
  index_t dim;
  template <class Use>
  __device__ void by_block(index_t begin, index_t end, Use const& use) const {
    for (index_t t = begin; t < end; ++t) use(rows + t * dim, t, index_t{1});
  }
};

template <class Codec>
__global__ void encode_kernel(Codec codec, float* rows, site at, std::byte* block) {
  warp_codec<Codec>::encode(codec, rows, at, block);
}
template <class Codec>
__global__ void fit_kernel(Codec codec, float* rows, site at, std::byte* state, float* scratch) {
  warp_codec<Codec>::fit(codec, reader{rows, at.dim}, at.n, at, state, scratch);
}

template <class Codec>
void look(Codec const& codec) {
  encode_kernel<<<1, 32>>>(codec, nullptr, site{}, nullptr);
  if constexpr (Codec::traits.fitted)
    fit_kernel<<<1, 256>>>(codec, nullptr, site{}, nullptr, nullptr);
}
template <class Quantizer>
void look_at(Quantizer const& quantizer) {
  look(quantizer.key_codec());
  look(quantizer.value_codec());
}

}  // namespace

void all_quantizers() {
  look_at(int_per_token<8>{});
  look_at(kivi<2>{});
  look_at(rotated{int_per_token<4>{}});
  look_at(centred<5, 3>{});
  look_at(zipcache<4>{});
  look_at(mikv<2>{});
  look_at(think{kivi<4>{}});
  look_at(fp8<e4m3, e5m2>{});
  look_at(fp4<fp4_block::nvfp4, fp4_block::mxfp4>{});
  look_at(mustafar<>{});
  look_at(turboquant<4, 3>{});
  look_at(turboquant<3, 1, turbo_form::inner, turbo_form::inner>{});
  look_at(ggml<ggml_block::q8_0, ggml_block::q5_1>{});
}
