// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// deserialize() on arbitrary bytes. The checksum is mended first, so that the fuzzer reaches the
// row table; whatever is accepted is then attended, appended to and rewound.

#include <kvslim/kvslim.hpp>

#include <cstring>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  using namespace kvslim;
  static auto const plan =
      make_plan(pipeline{knorm{}, top_k{{.budget = 40}}, kivi<4>{{.residual = 32}}}, {1, 2, 64, 32},
                {.append_tokens = 4});
  alignas(256) static std::byte storage[1 << 16];
  static std::vector<std::byte> bytes;
  bytes.assign(reinterpret_cast<std::byte const*>(data),
               reinterpret_cast<std::byte const*>(data) + size);
  if (size >= sizeof(packed_header) && (data[size - 1] & 1) != 0) {
    packed_header h;
    std::memcpy(&h, bytes.data(), sizeof h);
    if (h.used_bytes >= static_cast<index_t>(sizeof h) &&
        h.used_bytes <= static_cast<index_t>(size)) {
      h.checksum = detail::cache_checksum(bytes.data(), h);
      std::memcpy(bytes.data(), &h, sizeof h);
    }
  }
  packed_cache const packed(plan, storage, sizeof storage);
  if (!deserialize(bytes.data(), size, packed)) return 0;
  static float q[4 * 32], out[4 * 32], lse[4], k[2 * 32];
  static std::vector<float> scratch(append_scratch_floats(plan));
  rows_shape const many{1, 4, 1, 32}, one{1, 2, 1, 32};
  static_cast<void>(attend(cpu{}, dense_rows<host_space, float const>(q, many), packed,
                           dense_rows(out, many), lse));
  auto const row = dense_rows<host_space, float const>(k, one);
  static_cast<void>(append(cpu{}, packed, row, row, scratch.data()));
  static_cast<void>(rewind(packed, 2));
  static_cast<void>(attend(cpu{}, dense_rows<host_space, float const>(q, many), packed,
                           dense_rows(out, many), lse));
  return 0;
}
