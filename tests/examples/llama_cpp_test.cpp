// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Saved sequences of llama.cpp without llama.cpp: blobs made here.

#include "llama_cpp/codecs.hpp"
#include "support/catch.hpp"

#include <random>

using namespace example;

namespace {

using blob = std::vector<std::byte>;

template <class T>
void put(blob& to, T const& x) {
  auto const* const bytes = reinterpret_cast<std::byte const*>(&x);
  to.insert(to.end(), bytes, bytes + sizeof x);
}

constexpr std::int32_t f32 = 0, f16 = 1, q4_0 = 2, q8_0 = 8, bf16 = 30;

struct shape {
  std::vector<std::int32_t> positions{0, 1, 2, 3, 4};
  std::uint32_t layers = 2, heads = 2, key_dim = 32, value_dim = 64, streams = 1, stream = 0;
  std::int32_t key_type = f16, value_type = f16;
  bool transposed = false;
};

std::size_t row_bytes(std::int32_t type, std::size_t n) {
  return type == f32 ? 4 * n : type == q8_0 ? n / 32 * 34 : type == q4_0 ? n / 32 * 18 : 2 * n;
}

/// What channel c of a cell is: small numbers that every type but q4_0 holds almost exactly.
float number(std::uint32_t layer, bool value, std::int32_t position, std::size_t c) {
  auto const x = static_cast<float>(
      (position * 7 + static_cast<int>(c) * 3 + static_cast<int>(layer) * 5 + (value ? 11 : 0)) %
      61);
  return x / 64.0f - 0.5f;
}

void put_element(blob& to, std::int32_t type, float x) {
  if (type == f32) put(to, x);
  if (type == f16) put(to, kvslim::from_float<kvslim::f16>(x));
  if (type == bf16) put(to, kvslim::from_float<kvslim::bf16>(x));
}

void put_row(blob& to, std::int32_t type, std::vector<float> const& x) {
  for (std::size_t c = 0; c < x.size(); ++c) put_element(to, type, x[c]);
  auto const blocks = [&]<class Codec>(Codec const& codec) {
    auto const at = to.size();
    to.resize(at + row_bytes(type, x.size()));
    codec.encode(x.data(), {.n = 1, .dim = std::ssize(x)}, to.data() + at);
  };
  if (type == q8_0) blocks(kvslim::ggml_rows<kvslim::ggml_block::q8_0>{});
  if (type == q4_0) blocks(kvslim::ggml_rows<kvslim::ggml_block::q4_0>{});
}

/// One cache, written from the description of the format and sharing nothing with the reader.
void put_cache(blob& to, shape const& s, std::int32_t sequence) {
  put(to, s.streams);
  for (std::uint32_t stream = 0; stream < s.streams; ++stream) {
    auto const cells = stream == s.stream ? s.positions.size() : 0;
    put(to, static_cast<std::uint32_t>(cells));
    if (cells == 0) continue;
    for (auto p : s.positions) {
      put(to, p);
      put(to, std::uint32_t{1});
      put(to, sequence);
    }
    put(to, std::uint32_t{s.transposed});
    put(to, s.layers);
    for (bool const value : {false, true})
      for (std::uint32_t l = 0; l < s.layers; ++l) {
        auto const type = value ? s.value_type : s.key_type;
        std::size_t const wide = s.heads * (value ? s.value_dim : s.key_dim);
        put(to, type);
        if (value && s.transposed) {
          put(to, static_cast<std::uint32_t>(row_bytes(type, 1)));
          put(to, static_cast<std::uint32_t>(wide));
          for (std::size_t c = 0; c < wide; ++c)
            for (auto p : s.positions) put_element(to, type, number(l, true, p, c));
          continue;
        }
        put(to, std::uint64_t{row_bytes(type, wide)});
        for (auto p : s.positions) {
          std::vector<float> row;
          for (std::size_t c = 0; c < wide; ++c) row.push_back(number(l, value, p, c));
          put_row(to, type, row);
        }
      }
  }
}

blob saved(shape const& s, std::int32_t sequence = 3) {
  blob out;
  put(out, std::uint32_t{0xaf143cd8u});
  put(out, sequence);
  put_cache(out, s, sequence);
  return out;
}

template <class F>
std::string refusal(F const& f) {
  try {
    f();
  } catch (saved_error const& error) {
    return error.what();
  }
  return "";
}

using exact_forms = stored_forms<form_of<kvslim::dense<kvslim::f16>>, form_of<kvslim::dense<float>>,
                                 form_of<kvslim::ggml<kvslim::ggml_block::q8_0>>>;

}  // namespace

TEST_CASE("a saved sequence is viewed where it lies, whatever its types", "[llama_cpp]") {
  auto const type = GENERATE(f32, f16, bf16, q8_0, q4_0);
  auto const transposed = GENERATE(false, true);
  if (transposed && (type == q8_0 || type == q4_0)) return;
  shape s{.positions = {9, 2, 3, 11, 5, 40}, .value_type = type, .transposed = transposed};
  s.key_type = transposed ? f16 : type;
  auto const bytes = saved(s);
  auto const read = read_saved(bytes);
  REQUIRE(read.sequence == 3);
  REQUIRE(read.caches.size() == 1);
  saved_view const view(bytes, read.caches[0], {s.heads});
  CHECK(view.extents() == kvslim::extents{2, 2, 6, 32, 64});
  std::vector<std::int32_t> const ordered{2, 3, 5, 9, 11, 40};
  double worst = 0, off = 0;
  for (std::uint32_t l = 0; l < s.layers; ++l)
    for (std::uint32_t h = 0; h < s.heads; ++h)
      for (index_t i = 0; i < 6; ++i) {
        auto const p = view.real_position(i);
        REQUIRE(p == ordered[static_cast<std::size_t>(i)]);
        float whole[64];
        for (bool const value : {false, true}) {
          auto const row = value ? view.value(l, h, i) : view.key(l, h, i);
          row.load(whole);
          for (index_t d = 0; d < row.size(); ++d) {
            auto const c = h * static_cast<std::size_t>(row.size()) + static_cast<std::size_t>(d);
            worst = std::max<double>(worst, std::abs(row[d] - number(l, value, p, c)));
            off = std::max<double>(off, std::abs(row[d] - whole[d]));
          }
        }
      }
  CHECK(off == 0.0);
  // Half a step of q8_0 (0.5 / 127) and of q4_0 (0.5 / 8, clipped by up to one); else exact.
  CHECK(worst <= (type == q8_0 ? 0.5 / 127 : type == q4_0 ? 0.5 / 8 : 0.0));
}

TEST_CASE("what exact codecs store comes back byte for byte", "[llama_cpp]") {
  auto const round = [](shape const& s, auto const& codec) {
    auto const bytes = saved(s);
    return restore_saved(compress_saved(bytes, {s.heads}, codec), exact_forms{}) == bytes;
  };
  CHECK(round({}, kvslim::dense<kvslim::f16>{}));
  CHECK(round({.positions = {4, 5, 100, 101, 7000}}, kvslim::dense<kvslim::f16>{}));
  CHECK(round({.positions = {0}, .layers = 1, .heads = 1}, kvslim::dense<kvslim::f16>{}));
  CHECK(round({.transposed = true}, kvslim::dense<kvslim::f16>{}));
  CHECK(round({.streams = 4, .stream = 2}, kvslim::dense<kvslim::f16>{}));
  CHECK(round({.key_type = f32, .value_type = bf16}, kvslim::dense<float>{}));
  CHECK(round({.heads = 3, .key_type = q8_0, .value_type = q8_0},
              kvslim::ggml<kvslim::ggml_block::q8_0>{}));
  CHECK(round({.key_type = q4_0, .value_type = q8_0}, kvslim::dense<float>{}));
}

TEST_CASE("cells that lie in no order come back in text order", "[llama_cpp]") {
  auto const stored =
      compress_saved(saved({.positions = {9, 2, 3, 11}}), {2}, kvslim::dense<kvslim::f16>{});
  CHECK(restore_saved(stored, exact_forms{}) == saved({.positions = {2, 3, 9, 11}}));
}

TEST_CASE("a windowed model's two caches are both stored", "[llama_cpp]") {
  auto bytes = saved({.positions = {0, 1, 2, 3, 4, 5, 6}, .layers = 1});
  put_cache(bytes, {.positions = {5, 6}, .layers = 3}, 3);
  REQUIRE(read_saved(bytes).caches.size() == 2);
  auto const stored = compress_saved(bytes, {2}, kvslim::dense<kvslim::f16>{});
  CHECK(restore_saved(stored, exact_forms{}) == bytes);
}

TEST_CASE("codecs that lose something stay close, in fewer bytes", "[llama_cpp]") {
  shape s{.heads = 4, .key_dim = 64};
  s.positions.resize(300);
  std::iota(s.positions.begin(), s.positions.end(), 0);
  auto const bytes = saved(s);
  auto const from = read_saved(bytes);
  for_codecs([&](char const* name, auto const& codec) {
    INFO(name);
    auto const stored = compress_saved(bytes, {s.heads}, codec);
    auto const back = restore_saved(stored, known_forms{});
    REQUIRE(back.size() == bytes.size());
    auto const to = read_saved(back);
    saved_view const a(bytes, from.caches[0], {s.heads}), b(back, to.caches[0], {s.heads});
    double worst = 0, error = 0, norm = 0;
    for (index_t i = 0; i < 300; ++i)
      for (index_t d = 0; d < 64; ++d) {
        double const x = a.value(1, 3, i)[d], off = x - b.value(1, 3, i)[d];
        worst = std::max(worst, std::abs(off));
        error += off * off;
        norm += x * x;
      }
    // Half a step of two bits over a range of one, and what f16 scales round. A rotation spreads
    // half a step of a whole row's norm over its channels: what bounds those is their sum.
    std::string const codec_name = name;
    if (codec_name.find("rotated") == std::string::npos && codec_name != "centred4")
      CHECK(worst <= 1.0 / 6 + 1e-3);
    else
      CHECK(error <= norm / 4);
    CHECK((codec_name == "f16" || stored.size() < bytes.size()));
  });
}

TEST_CASE("saved sequences that cannot be read are refused, with the reason", "[llama_cpp]") {
  auto const why = [](blob const& b) { return refusal([&] { static_cast<void>(read_saved(b)); }); };
  auto const good = saved({});
  auto const with = [&](std::size_t at, std::uint32_t x) {
    auto b = good;
    std::memcpy(b.data() + at, &x, 4);
    return b;
  };
  CHECK(why(good).empty());
  CHECK(why({}).find("truncated") != std::string::npos);
  CHECK(why(with(0, 7)).find("no saved sequence") != std::string::npos);
  CHECK(why(with(8, 0)).find("no attention cache") != std::string::npos);
  CHECK(why(with(12, 0)).find("no cells") != std::string::npos);
  CHECK(why(with(12, 0xffffffffu)).find("truncated") != std::string::npos);
  CHECK(why(with(20, 2)).find("2 sequences") != std::string::npos);  // first cell's owners
  CHECK(why(with(24, 9)).find("M-RoPE") != std::string::npos);       // first cell's owner
  std::size_t const data = 16 + 12 * 5;
  CHECK(why(with(data, 2)).find("M-RoPE") != std::string::npos);        // transposed
  CHECK(why(with(data + 8, 14)).find("type 14") != std::string::npos);  // q6_K
  CHECK(why(with(data + 12, 3)).find("whole number") != std::string::npos);
  blob empty;
  put(empty, std::uint32_t{0xaf143cd8u});
  put(empty, std::int32_t{0});
  CHECK(why(empty).find("no cells") != std::string::npos);
  put(empty, std::uint32_t{1});
  put(empty, std::uint32_t{0});
  CHECK(why(empty).find("no cells") != std::string::npos);
  auto two = saved({.streams = 1});
  blob both{two.begin(), two.begin() + 8};
  put(both, std::uint32_t{2});
  both.insert(both.end(), two.begin() + 12, two.end());
  both.insert(both.end(), two.begin() + 12, two.end());
  CHECK(why(both).find("several streams") != std::string::npos);
  auto hybrid = good;
  put(hybrid, std::uint32_t{0});
  CHECK(why(hybrid).find("hybrid") != std::string::npos);
  // Latent attention: K alone.
  auto const k_bytes = data + 8 + 2 * (12 + 5 * 2 * 32 * 2);
  CHECK(why({good.begin(), good.begin() + static_cast<std::ptrdiff_t>(k_bytes)}).find("latent") !=
        std::string::npos);
  for (std::size_t n = 0; n < good.size(); ++n)
    REQUIRE_FALSE(why({good.begin(), good.begin() + static_cast<std::ptrdiff_t>(n)}).empty());
}

TEST_CASE("views that would misread are refused", "[llama_cpp]") {
  auto const why = [](blob const& b, index_t heads) {
    return refusal([&] {
      auto const s = read_saved(b);
      saved_view const view(b, s.caches[0], {heads});
    });
  };
  CHECK(why(saved({}), 2).empty());
  CHECK(why(saved({}), 3).find("do not divide") != std::string::npos);
  CHECK(why(saved({}), 0).find("do not divide") != std::string::npos);
  CHECK(why(saved({.key_type = q8_0, .value_type = q8_0}), 4).find("multiples of 32") !=
        std::string::npos);
  auto uneven = read_saved(saved({}));
  uneven.caches[0].k[1].channels = 32;
  auto const bytes = write_frame(uneven);
  CHECK(why(bytes, 2).find("differ") != std::string::npos);
}

TEST_CASE("compressed sequences: every bit counts, and every length", "[llama_cpp]") {
  auto const good = compress_saved(saved({}), {2}, kvslim::int_per_token<8>{});
  auto const why = [](blob const& b) {
    return refusal([&] { static_cast<void>(restore_saved(b, known_forms{})); });
  };
  REQUIRE(why(good).empty());
  for (std::size_t n = 0; n < good.size(); ++n)
    REQUIRE_FALSE(why({good.begin(), good.begin() + static_cast<std::ptrdiff_t>(n)}).empty());
  for (std::size_t i = 0; i < good.size(); ++i) {
    auto b = good;
    b[i] ^= std::byte{1} << (i % 8);
    INFO(i);
    REQUIRE_FALSE(why(b).empty());
  }
  auto longer = good;
  longer.push_back(std::byte{0});
  CHECK(why(longer).find("longer") != std::string::npos);
  CHECK(why(saved({})).find("foreign") != std::string::npos);
  auto const other = compress_saved(saved({}), {2}, kvslim::dense<kvslim::e5m2>{});
  CHECK(why(other).find("no form of this list") != std::string::npos);
}

TEST_CASE("lies under a right checksum are refused", "[llama_cpp]") {
  auto const good = compress_saved(saved({}), {2}, kvslim::int_per_token<8>{});
  std::mt19937 random(7);
  int refused = 0;
  for (int i = 0; i < 20000; ++i) {
    auto b = good;
    for (int n = 0; n < 1 + i % 3; ++n)
      b[32 + random() % 200] = static_cast<std::byte>(random() % 256);
    auto const sum = example::detail::container_checksum(b);
    std::memcpy(b.data() + 24, &sum, 8);
    refused += refusal([&] { static_cast<void>(restore_saved(b, known_forms{})); }).empty() ? 0 : 1;
  }
  CHECK(refused > 15000);  // what it says of the sequence, its stream and its positions is free
}
