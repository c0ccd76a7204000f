// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// A codec of one's own: V as signed bytes with one scale per token, beside the library's 4-bit K.

#include "support.hpp"

#include <kvslim/kvslim.hpp>

#include <cmath>
#include <cstdio>
#include <cstring>

// [contributing: codec]
/// A block is one token: float scale, then dim signed bytes.
struct signed_bytes {
  using tail_type = kvslim::f16;  // newest tokens, before settle() codes them
  static constexpr kvslim::codec_traits traits{.form = kvslim::form_id{0x80000001u},
                                               .rewrites = true};

  kvslim::status check(kvslim::index_t) const { return {}; }
  KVSLIM_HD kvslim::codec_sizes sizes(kvslim::index_t dim, kvslim::index_t) const {
    return {.block_tokens = 1, .block_bytes = 4 + (dim + 3) / 4 * 4};
  }
  KVSLIM_HD float limit() const { return 65504.0f; }
  kvslim::form written() const { return {traits.form.value}; }
  static kvslim::status read(kvslim::form const& f, signed_bytes& out) {
    if (!(f == signed_bytes{}.written())) return {kvslim::errc::foreign, "not signed_bytes"};
    out = {};
    return {};
  }
  KVSLIM_HD void encode(float const* rows, kvslim::site const& at, std::byte* block) const {
    float most = 0;
    for (kvslim::index_t d = 0; d < at.dim; ++d) most = std::fmax(most, std::fabs(rows[d]));
    float const scale = most > 0 ? most / 127 : 1;
    std::memcpy(block, &scale, 4);
    for (kvslim::index_t d = 0; d < at.dim; ++d)
      block[4 + d] = static_cast<std::byte>(static_cast<int>(std::rint(rows[d] / scale)));
  }
  KVSLIM_HD float decode(std::byte const* block, kvslim::site const&, kvslim::index_t d) const {
    float scale;
    std::memcpy(&scale, block, 4);
    return scale * static_cast<float>(static_cast<signed char>(block[4 + d]));
  }
  KVSLIM_HD void accumulate(std::byte const* block, kvslim::site const& at, float const* p,
                            kvslim::index_t heads, float* out) const {
    for (kvslim::index_t i = 0; i < at.n; ++i, block += sizes(at.dim, 0).block_bytes)
      for (kvslim::index_t d = 0; d < at.dim; ++d)
        for (kvslim::index_t h = 0; h < heads; ++h)
          out[h * at.dim + d] += p[h * kvslim::run_tokens + i] * decode(block, at, d);
  }
};
static_assert(kvslim::value_codec<signed_bytes>);
// [contributing: end]

int main() {
  example::random_cache const data({.sequences = 1, .kv_heads = 2, .tokens = 512, .head_dim = 64},
                                   8);
  auto const plan = kvslim::make_plan(kvslim::codec_pair{kvslim::token_key<4>{}, signed_bytes{}},
                                      data.view().extents());
  std::vector<std::byte> storage(plan.packed_bytes()), scratch(plan.workspace_bytes());
  kvslim::packed_cache packed(plan, storage);
  auto const done =
      kvslim::compress(kvslim::cpu{}, plan, data.view(), kvslim::evidence<>{}, packed, scratch);
  std::vector<float> out(8 * 64), lse(8);
  auto const seen = done ? kvslim::attend(kvslim::cpu{}, packed,
                                          {.q = data.query(),
                                           .out = kvslim::dense_rows(out.data(), {1, 8, 1, 64}),
                                           .lse = lse.data()})
                         : done;
  double error = 0;
  for (kvslim::index_t t = 0; seen && t < 512; ++t)
    for (kvslim::index_t d = 0; d < 64; ++d)
      error = std::fmax(error, std::fabs(packed.value(0, t, d) - data.view().v.at(0, 0, t, d)));
  std::printf("%s: %zu bytes, values differ by at most %.4f\n", seen.message, packed.bytes(),
              error);
  return seen && error < 0.02 ? 0 : 1;
}
