// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// inspect(), any_cache and deserialize() on arbitrary bytes. The checksum is mended first, so that
// the fuzzer reaches the row table; whatever is accepted is then lived with.

#include <kvslim/kvslim.hpp>

#include <cstring>
#include <limits>
#include <vector>

namespace {

using namespace kvslim;

/// Every verb that a cache from outside may meet. Sizes come from the cache's own layout.
template <class Packed>
status live(Packed const& packed) {
  auto const& e = packed.extents();
  if (e.rows() * (e.head_dim + e.value_width()) > 4096) return {};
  index_t most = 0;
  for (index_t r = 0; r < e.rows(); ++r) most = std::max<index_t>(most, packed.raw_row(r).slots);
  if (most > 4096) return {};
  index_t const heads = 2 * e.kv_heads;
  auto const size = [](index_t n) { return static_cast<std::size_t>(n); };
  std::vector<float> const q(size(e.sequences * heads * e.head_dim), 0.5f);
  std::vector<float> out(size(e.sequences * heads * e.value_width())),
      lse(size(e.sequences * heads));
  std::vector<float> logits(size(e.sequences * heads * most));
  attend_request<> const ask{
      .q = dense_rows<host_space, float const>(q.data(), {e.sequences, heads, 1, e.head_dim}),
      .out = dense_rows(out.data(), {e.sequences, heads, 1, e.value_width()}),
      .lse = lse.data(),
      .logits = logits.empty() ? nullptr : logits.data(),
      .logits_stride = most};
  static_cast<void>(attend(cpu{}, packed, ask));
  std::vector<float> const k(size(e.rows() * e.head_dim), 0.25f),
      v(size(e.rows() * e.value_width()));
  std::vector<std::byte> scratch(append_bytes(packed.layout())),
      work(settle_bytes(packed.layout()));
  std::vector<std::int32_t> const victims(size(e.rows()), 0);
  for (int i = 0; i < 3; ++i) {
    static_cast<void>(append(
        cpu{}, packed,
        dense_rows<host_space, float const>(k.data(), {e.sequences, e.kv_heads, 1, e.head_dim}),
        dense_rows<host_space, float const>(v.data(),
                                            {e.sequences, e.kv_heads, 1, e.value_width()}),
        scratch));
    static_cast<void>(evict(cpu{}, packed, victims.data()));
    if (work.size() < (std::size_t{1} << 24)) static_cast<void>(settle(cpu{}, packed, work));
  }
  static_cast<void>(rewind(packed, 2));
  most += 3;
  std::vector<float> plain_k(size(e.rows() * most * e.head_dim)),
      plain_v(size(e.rows() * most * e.value_width()));
  std::vector<std::byte> order(decode_bytes(packed.layout(), most));
  static_cast<void>(
      decode(cpu{}, packed, dense_rows(plain_k.data(), {e.sequences, e.kv_heads, most, e.head_dim}),
             dense_rows(plain_v.data(), {e.sequences, e.kv_heads, most, e.value_width()}), nullptr,
             order));
  std::vector<std::byte> file(serialized_bytes(packed));
  return serialize(packed, file.data(), file.size());
}

template <class Plan>
void read_as(Plan const& plan, std::vector<std::byte> const& bytes) {
  alignas(256) static std::byte storage[1 << 17];
  packed_cache const packed(plan, storage, sizeof storage);
  if (deserialize(bytes.data(), bytes.size(), packed)) static_cast<void>(live(packed));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  std::vector<std::byte> bytes(size);
  if (size > 0) std::memcpy(bytes.data(), data, size);
  if (size >= sizeof(packed_header) && (data[size - 1] & 1) != 0) {
    packed_header h;
    std::memcpy(&h, bytes.data(), sizeof h);
    if (h.used_bytes >= static_cast<index_t>(sizeof h) &&
        h.used_bytes <= static_cast<index_t>(size)) {
      h.checksum = detail::cache_checksum(bytes.data(), h);
      std::memcpy(bytes.data(), &h, sizeof h);
    }
  }
  static auto const grown =
      make_plan(pipeline{knorm{}, top_k{{.budget = 40}}, kivi<4>{{.residual = 32}}}, {1, 2, 64, 32},
                {.append_tokens = 4});
  static auto const evicting =
      make_plan(pipeline{streaming_llm{}, top_k{{.budget = 24}}, int_per_token<8>{{.residual = 4}}},
                {2, 1, 40, 16}, {.append_tokens = 4, .evicts = true, .biases = true});
  read_as(grown, bytes);
  read_as(evicting, bytes);
  inspected seen;
  static_cast<void>(inspect(bytes.data(), bytes.size(), seen));
  any_cache<stored_as<channel_key<4>, token_value<4>>, stored_as<token_key<8>, token_value<8>>,
            stored_as<dense_key<f16>, dense_value<f16>>> const any(bytes.data(), bytes.size());
  static_cast<void>(any.visit([](auto const& packed) { return live(packed); }));
  return 0;
}
