// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// A saved sequence with K and V in any codec of kvslim, as one buffer that says what it is.
// Restoring gives back what llama_state_seq_set_data takes, of the types that were saved.
// Little-endian:
//
//   u64 magic, u32 version, u32 caches, u64 bytes, u64 checksum (of all that follows, as kvslim's)
//   i32 sequence, u32 0
//   per cache   u32 streams, stream, kv heads, layers; i32 type of K, u32 channels; the same of V;
//               u32 V is transposed, u32 runs, u64 stored bytes
//     per run   i32 first position, u32 positions: ascending, consecutive within the run
//     padding to 16, then kvslim::serialize()'s bytes: layers are its sequences
//
// Damage is found by the checksum before anything is believed, and the stored caches have their
// own.

#include "llama_cpp/saved_sequence.hpp"

#include <kvslim/run/decode.hpp>
#include <kvslim/run/encode.hpp>
#include <kvslim/store/inspect.hpp>
#include <kvslim/store/serialize.hpp>

#include <numeric>

namespace example {

namespace detail {

inline constexpr std::uint64_t container_magic = 0x3170636c6d697673u;  // "svimlcp1"
inline constexpr std::uint32_t container_version = 2;
inline constexpr std::size_t container_head = 32;

inline void demand(kvslim::status const& s) {
  if (!s) throw saved_error(s.message);
}

inline std::uint64_t container_checksum(std::span<std::byte const> all) {
  return kvslim::detail::checksum(all.data() + container_head,
                                  std::ssize(all) - static_cast<index_t>(container_head),
                                  0xcbf29ce484222325u);
}

/// kvslim's storage, aligned to 64.
struct aligned_bytes {
  explicit aligned_bytes(std::size_t n) : memory(n + 64), bytes(n) {}
  [[nodiscard]] std::byte* data() {
    auto const at = reinterpret_cast<std::uintptr_t>(memory.data());
    return memory.data() + (64 - at % 64) % 64;
  }
  [[nodiscard]] std::size_t size() const { return bytes; }
  std::vector<std::byte> memory;
  std::size_t bytes;
};

struct run {
  std::int32_t first;
  std::uint32_t count;
};

inline std::vector<run> runs_of(saved_view const& view) {
  std::vector<run> out;
  for (index_t i = 0; i < view.extents().tokens; ++i) {
    auto const p = view.real_position(i);
    if (out.empty() || p != out.back().first + static_cast<std::int32_t>(out.back().count))
      out.push_back({p, 1});
    else
      ++out.back().count;
  }
  return out;
}

template <class Quantizer>
std::vector<std::byte> store(saved_view const& view, Quantizer const& codec) {
  auto const plan = kvslim::make_plan(codec, view.extents());
  demand(plan.check());
  aligned_bytes storage(plan.packed_bytes()), scratch(plan.encode_bytes());
  std::vector<std::int64_t> begins(static_cast<std::size_t>(view.extents().rows()) + 1);
  std::vector<std::int32_t> cells;
  for (std::size_t r = 1; r < begins.size(); ++r) {
    begins[r] = begins[r - 1] + view.extents().tokens;
    for (index_t i = 0; i < view.extents().tokens; ++i)
      cells.push_back(static_cast<std::int32_t>(i));
  }
  kvslim::keep_set const all{.begins = begins.data(), .cells = cells.data()};
  kvslim::packed_cache packed(plan, storage);
  demand(kvslim::encode(kvslim::cpu{}, plan, view, all, packed, scratch));
  std::vector<std::byte> out(kvslim::serialized_bytes(packed));
  demand(kvslim::serialize(packed, out.data(), out.size()));
  return out;
}

/// Decodes a stored cache into the rows of a frame.
template <class Packed>
kvslim::status unpack(Packed const& packed, saved_cache const& c, std::span<std::byte> frame) {
  auto const e = packed.extents();
  index_t const n = c.cells(), k = e.head_dim, v = e.value_width();
  auto const all = static_cast<std::size_t>(e.rows() * n);
  std::vector<float> keys(all * static_cast<std::size_t>(k)),
      values(all * static_cast<std::size_t>(v));
  aligned_bytes scratch(kvslim::decode_bytes(packed.layout(), n));
  auto const shape = [&](index_t dim) {
    return kvslim::rows_shape{e.sequences, e.kv_heads, n, dim};
  };
  if (auto const s =
          kvslim::decode(kvslim::cpu{}, packed, kvslim::dense_rows(keys.data(), shape(k)),
                         kvslim::dense_rows(values.data(), shape(v)), nullptr, scratch);
      !s)
    return s;
  for (index_t r = 0; r < e.rows(); ++r)
    for (index_t i = 0; i < n; ++i) {
      auto const layer = static_cast<std::size_t>(r / e.kv_heads),
                 row = static_cast<std::size_t>(r * n + i);
      auto const put = [&](saved_plane const& p, std::vector<float> const& x, index_t dim) {
        auto const d = static_cast<std::size_t>(dim);
        store_saved(frame, p, n, i, r % e.kv_heads * dim, {x.data() + row * d, d});
      };
      put(c.k[layer], keys, k);
      put(c.v[layer], values, v);
    }
  return {};
}

}  // namespace detail

/// The forms that a reader knows.
template <class... Forms>
struct stored_forms {};

/// Stores a saved sequence in `codec`. Throws saved_error.
template <class Quantizer>
std::vector<std::byte> compress_saved(std::span<std::byte const> saved, saved_heads heads,
                                      Quantizer const& codec) {
  using detail::put;
  auto const s = read_saved(saved);
  std::vector<std::byte> out;
  put(out, detail::container_magic);
  put(out, detail::container_version);
  put(out, static_cast<std::uint32_t>(s.caches.size()));
  put(out, std::uint64_t{0});
  put(out, std::uint64_t{0});
  put(out, s.sequence);
  put(out, std::uint32_t{0});
  for (auto const& c : s.caches) {
    saved_view const view(saved, c, heads);
    auto const stored = detail::store(view, codec);
    auto const runs = detail::runs_of(view);
    put(out, c.streams);
    put(out, c.stream);
    put(out, static_cast<std::uint32_t>(heads.kv_heads));
    put(out, static_cast<std::uint32_t>(c.layers()));
    for (auto const* p : {&c.k.front(), &c.v.front()}) {
      put(out, p->type.value);
      put(out, static_cast<std::uint32_t>(p->channels));
    }
    put(out, std::uint32_t{c.v.front().transposed});
    put(out, static_cast<std::uint32_t>(runs.size()));
    put(out, std::uint64_t{stored.size()});
    for (auto const& r : runs) put(out, r);
    out.resize((out.size() + 15) / 16 * 16);
    out.insert(out.end(), stored.begin(), stored.end());
  }
  std::uint64_t const bytes = out.size();
  std::memcpy(out.data() + 16, &bytes, 8);
  std::uint64_t const sum = detail::container_checksum(out);
  std::memcpy(out.data() + 24, &sum, 8);
  return out;
}

/// Reads a container whose caches are of one of the stored forms; what the engine is given back.
/// Throws saved_error: foreign (no container, another version, other codecs), truncated, damaged.
template <class... Forms>
std::vector<std::byte> restore_saved(std::span<std::byte const> bytes, stored_forms<Forms...>) {
  detail::saved_reader in(bytes);
  if (bytes.size() < 8 || in.take<std::uint64_t>() != detail::container_magic)
    throw saved_error("foreign: this is no compressed sequence");
  if (bytes.size() < detail::container_head) throw saved_error("truncated within its head");
  if (in.take<std::uint32_t>() != detail::container_version)
    throw saved_error("foreign: a compressed sequence of another version");
  auto const caches = in.take<std::uint32_t>();
  if (auto const size = in.take<std::uint64_t>(); size > bytes.size())
    throw saved_error("truncated: " + std::to_string(size - bytes.size()) + " bytes are missing");
  else if (size != bytes.size())
    throw saved_error("damaged: longer than it says");
  if (in.take<std::uint64_t>() != detail::container_checksum(bytes))
    throw saved_error("damaged: the checksum is wrong");
  if (caches < 1 || caches > 2) throw saved_error("damaged: neither one cache nor two");
  saved_sequence s{in.take<std::int32_t>(), {}};
  in.take<std::uint32_t>();
  std::vector<detail::aligned_bytes> stored;
  for (std::uint32_t i = 0; i < caches; ++i) {
    auto& c = s.caches.emplace_back();
    c.streams = in.take<std::uint32_t>();
    c.stream = in.take<std::uint32_t>();
    auto const heads = in.take<std::uint32_t>(), layers = in.take<std::uint32_t>();
    saved_plane planes[2];
    for (auto& p : planes) {
      p.type.value = in.take<std::int32_t>();
      p.channels = in.take<std::uint32_t>();
    }
    planes[1].transposed = in.take<std::uint32_t>() != 0;
    auto const runs = in.take<std::uint32_t>();
    auto const size = in.take<std::uint64_t>();
    if (c.streams < 1 || c.streams > 1024 || c.stream >= c.streams || layers < 1 || layers > 4096)
      throw saved_error("damaged: the shape of a cache is none");
    for (auto const& p : planes)
      if (!p.type.known() || p.channels < 1 || p.channels > (1 << 20) ||
          (p.type.quantized() && (p.transposed || p.channels % 32 != 0)))
        throw saved_error("damaged: the type of a cache is none");
    c.k.assign(layers, planes[0]);
    c.v.assign(layers, planes[1]);
    kvslim::inspected found;
    std::vector<detail::run> list;
    for (std::uint32_t r = 0; r < runs; ++r) list.push_back(in.take<detail::run>());
    in.skip((16 - in.at() % 16) % 16);
    auto& copy = stored.emplace_back(size <= in.left() ? size : 0);
    std::memcpy(copy.data(), in.skip(size), size);
    detail::demand(kvslim::inspect(copy.data(), size, found));
    // The row table must be sound before a frame is made of what it says.
    detail::demand(kvslim::any_cache<Forms...>(copy.data(), copy.size())
                       .visit([&](auto const& packed) -> kvslim::status {
                         bool whole = true;
                         for (index_t row = 0; row < packed.extents().rows(); ++row)
                           whole = whole && packed.raw_row(row).slots == found.extent.tokens &&
                                   packed.raw_row(row).holes == 0;
                         if (!whole) return {kvslim::errc::corrupt, "damaged: rows differ"};
                         return {};
                       }));
    auto const& e = found.extent;
    std::uint64_t tokens = 0;
    std::int64_t next = 0;
    for (auto const& r : list) {
      if (r.first < next || r.count < 1 || r.first + std::int64_t{r.count} > 0x7fffffff)
        throw saved_error("damaged: positions do not ascend");
      next = r.first + std::int64_t{r.count};
      tokens += r.count;
    }
    if (e.sequences != layers || e.kv_heads != heads ||
        e.kv_heads * e.head_dim != planes[0].channels ||
        e.kv_heads * e.value_width() != planes[1].channels ||
        tokens != static_cast<std::uint64_t>(e.tokens))
      throw saved_error("damaged: head and stored cache disagree");
    for (auto const& r : list)
      for (std::uint32_t p = 0; p < r.count; ++p)
        c.positions.push_back(static_cast<std::int32_t>(static_cast<std::uint32_t>(r.first) + p));
  }
  if (in.left() != 0) throw saved_error("damaged: something follows the caches");
  auto out = write_frame(s);
  for (std::size_t i = 0; i < stored.size(); ++i) {
    kvslim::any_cache<Forms...> const cache(stored[i].data(), stored[i].size());
    detail::demand(
        cache.visit([&](auto const& packed) { return detail::unpack(packed, s.caches[i], out); }));
  }
  return out;
}

}  // namespace example
