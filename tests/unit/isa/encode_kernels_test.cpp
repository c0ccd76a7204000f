// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// What every path of this processor stores, byte for byte, beside the plain loops.

#include "support/catch.hpp"
#include "support/data.hpp"
#include "support/paths.hpp"

#include <cstring>

using namespace kvslim;

namespace {

/// Calls f() by the plain loops, then by what kernels the processor has; what f returns is equal.
template <class F>
void same_on_each_path(F const& f) {
  isa::path const before = isa::current();
  isa::use(isa::path::portable);
  auto const plain = f();
  for (auto const wanted : isa::every_path)
    if (wanted != isa::path::portable && isa::use(wanted) == wanted) {
      INFO("path " << isa::name_of(wanted));
      CHECK(f() == plain);
    }
  isa::use(before);
}

/// Numbers of one kind: what rounds, what ties, what underflows, what only a damaged tail holds.
float sample(int kind, std::mt19937& engine) {
  float const x = std::normal_distribution<float>{}(engine);
  auto const one_in = [&](unsigned n) { return engine() % n == 0; };
  float const infinity = std::numeric_limits<float>::infinity();
  float const zero = one_in(2) ? 0.0f : -0.0f;
  switch (kind) {
    case 0:
      return x;
    case 1:
      return to_float(from_float<f16>(x));
    case 2:
      return std::max(-65504.0f, std::min(65504.0f, x * 60000.0f));
    case 3:
      return x * 1e-7f;
    case 4:
      return x * 1e-40f;
    case 5:
      return zero;
    case 6:
      return 3.25f;
    case 7:
      return 100.0f + 0.01f * x;
    case 8:
      return static_cast<float>(engine() % 511) * 0.5f;
    case 9:
      return one_in(5) ? zero : std::abs(x);
    case 10:
      return one_in(40) ? NAN : x;
    case 11:
      return one_in(40) ? (one_in(2) ? infinity : -infinity) : x;
    default:
      return to_float(f16{static_cast<std::uint16_t>(engine() & 0xffffu)});
  }
}

template <class Codec>
void codes_alike(char const* name, Codec const& codec, index_t dim, index_t n) {
  INFO(name << ", head_dim " << dim);
  auto const z = codec.sizes(dim, 4096);
  for (int kind = 0; kind < 13; ++kind) {
    INFO("numbers of kind " << kind);
    std::mt19937 engine(static_cast<unsigned>(kind * 1000 + static_cast<int>(dim)));
    std::vector<float> rows(static_cast<std::size_t>(n * dim));
    for (float& x : rows) x = sample(kind, engine);
    same_on_each_path([&] {
      index_t const blocks = (n + z.block_tokens - 1) / z.block_tokens;
      std::vector<std::byte> block(static_cast<std::size_t>(blocks * z.block_bytes));
      auto copy = rows;
      codec.encode(copy.data(), site{.first = 0, .n = n, .dim = dim}, block.data());
      return block;
    });
  }
}

/// The same of finite rows of T as they lie, where a kernel codes such, all of one sign or not.
template <element T, class Codec>
void stored_alike(char const* name, Codec const& codec, index_t dim, index_t n) {
  INFO(name << ", head_dim " << dim);
  auto const z = codec.sizes(dim, 4096);
  for (int kind = 0; kind < 13; ++kind)
    for (float const sign : {1.0f, -1.0f}) {
      INFO("numbers of kind " << kind << " times " << sign);
      std::mt19937 engine(static_cast<unsigned>(kind * 1000 + static_cast<int>(dim)));
      std::vector<T> rows(static_cast<std::size_t>(n * dim));
      std::vector<float> floats;
      for (T& x : rows) {
        x = from_float<T>(sign * sample(kind, engine));
        if (!is_finite(to_float(x)) || std::abs(to_float(x)) > 65504.0f) x = from_float<T>(sign);
        floats.push_back(to_float(x));
      }
      same_on_each_path([&] {
        std::vector<std::byte> block(static_cast<std::size_t>(n / z.block_tokens * z.block_bytes));
        site const at{.first = 0, .n = n, .dim = dim};
        auto copy = floats;
        bool const done = codec.encode_stored(rows.data(), at, block.data());
        CHECK(done == (isa::current() != isa::path::portable));
        if (!done) codec.encode(copy.data(), at, block.data());
        return block;
      });
    }
}

/// K and V in cells that lie in no order, with padding and lengths of their own, as T.
template <element T>
struct scattered {
  data::cache const& c;
  std::vector<T> k, v;
  std::vector<std::int32_t> positions, lengths;
  std::vector<std::uint8_t> valid;

  explicit scattered(data::cache const& from) : c(from) {
    for (float const x : c.k) k.push_back(from_float<T>(x));
    for (float const x : c.v) v.push_back(from_float<T>(x));
    auto const& s = c.shape;
    for (index_t q = 0; q < s.sequences; ++q) {
      lengths.push_back(static_cast<std::int32_t>(s.tokens - 7 * q));
      for (index_t t = 0; t < s.tokens; ++t) {
        positions.push_back(static_cast<std::int32_t>(t * 37 % s.tokens));
        valid.push_back(t % 11 == 4 ? 0 : t % 29 == 3 ? 2 : 1);
      }
    }
  }
  [[nodiscard]] auto view() const {
    auto x = dense_cache(k.data(), v.data(), c.shape.extents());
    x.positions = positions.data();
    x.valid = valid.data();
    x.lengths = lengths.data();
    return x;
  }
};

template <class Policy>
void stores_alike(char const* name, Policy const& policy, index_t dim) {
  INFO(name << ", head_dim " << dim);
  data::cache const c({.sequences = 2, .kv_heads = 2, .tokens = 211, .head_dim = dim});
  auto const stored = [&](auto const& view, auto const& stages, plan_options options) {
    same_on_each_path([&] {
      data::compressed const run(stages, view, {}, options);
      CHECK(run.result.ok());
      CHECK(run.intact());
      return run.storage.copy();
    });
  };
  stored(c.view(), policy, {});
  stored(scattered<float>(c).view(), policy, {.positions = true});
  stored(scattered<f16>(c).view(), policy, {.append_tokens = 40, .positions = true});
  // Rows side by side, which codecs may read as they lie.
  scattered<f16> const halves(c);
  scattered<bf16> const upper(c);
  stored(dense_cache(halves.k.data(), halves.v.data(), c.shape.extents()), policy, {});
  stored(dense_cache(upper.k.data(), upper.v.data(), c.shape.extents()), policy, {});
  stored(scattered<bf16>(c).view(), pipeline{knorm{}, top_k{{.budget = 101}}, policy}, {});
}

}  // namespace

TEST_CASE("every path codes the same bytes", "[isa][encode]") {
  for (index_t const dim : {32, 36, 40, 64, 80, 96, 112, 128, 256}) {
    codes_alike("token_key<8>", token_key<8>{}, dim, 32);
    codes_alike("token_key<4>", token_key<4>{}, dim, 32);
    codes_alike("channel_key<8>", channel_key<8>{}, dim, 32);
    codes_alike("channel_key<4>", channel_key<4>{.group = 64}, dim, 64);
    codes_alike("channel_key<2>", channel_key<2>{}, dim, 32);
    codes_alike("token_value<8>", token_value<8>{}, dim, 4);
    codes_alike("token_value<4>", token_value<4>{}, dim, 4);
    codes_alike("token_value<2>", token_value<2>{}, dim, 4);
    for (index_t const group : {8, 16, 32})
      if (dim % group == 0) codes_alike("token_value<4>", token_value<4>{group}, dim, 4);
  }
}

TEST_CASE("every path codes the same bytes of rows as they lie", "[isa][encode]") {
  for (index_t const dim : {64, 80, 96, 128, 144}) {
    stored_alike<f16>("token_key<8>", token_key<8>{}, dim, 32);
    stored_alike<f16>("channel_key<4>", channel_key<4>{}, dim, 32);
    stored_alike<bf16>("channel_key<4>", channel_key<4>{}, dim, 32);
    stored_alike<f16>("token_value<8>", token_value<8>{}, dim, 32);
    stored_alike<bf16>("token_value<8>", token_value<8>{}, dim, 32);
    if (dim % 32 == 0) stored_alike<f16>("token_value<2>", token_value<2>{32}, dim, 32);
  }
}

template <ggml_block Type>
void blocks_alike(char const* name) {
  ggml_rows<Type> const rows{};
  codes_alike(name, rows, 96, 5);
  for (index_t const dim : {32, 64, 96}) {
    stored_alike<f16>(name, rows, dim, 7);
    stored_alike<bf16>(name, rows, dim, 7);
    stored_alike<float>(name, rows, dim, 7);
  }
}

TEST_CASE("every path makes ggml's blocks", "[isa][encode][ggml]") {
  blocks_alike<ggml_block::q8_0>("q8_0");
  blocks_alike<ggml_block::q4_0>("q4_0");
  blocks_alike<ggml_block::q4_1>("q4_1");
  blocks_alike<ggml_block::q5_0>("q5_0");
  blocks_alike<ggml_block::q5_1>("q5_1");
}

TEST_CASE("every path makes the same 4-bit floats", "[isa][encode][fp4]") {
  for (auto const rule : {fp4_rounding::ggml, fp4_rounding::even}) {
    for (index_t const dim : {32, 96, 128})
      codes_alike("mxfp4", fp4_rows<fp4_block::mxfp4>{0, rule}, dim, 9);
    for (index_t const dim : {16, 48, 80, 128})
      for (float const scale : {1.0f, 0.013f})
        codes_alike("nvfp4", fp4_rows<fp4_block::nvfp4>{0, rule, scale}, dim, 9);
  }
}

template <class T>
void rounds_alike() {
  std::vector<float> values = {0.0f, -0.0f, NAN, -NAN, INFINITY, -INFINITY, 1e30f, 1e-30f, 1e-40f};
  for (int i = 0; i < 256; ++i) {
    float const x = to_float(T{static_cast<std::uint8_t>(i)});
    float const next = to_float(T{static_cast<std::uint8_t>(i + 1)});
    for (float const y : {x, next, 0.5f * (x + next), 0.75f * x + 0.25f * next})
      for (float const z : {y, std::nextafter(y, INFINITY), std::nextafter(y, -INFINITY)})
        values.push_back(z);
  }
  values.resize(values.size() / 16 * 16);
  auto const n = static_cast<index_t>(values.size());
  std::vector<std::uint8_t> wanted;
  for (float const x : values) wanted.push_back(from_float<T>(x).bits);
  data::on_each_path([&](isa::path) {
    std::vector<T> out(values.size());
    site at{};
    at.n = 1;
    at.dim = n;
    dense_value<T>{}.encode(values.data(), at, reinterpret_cast<std::byte*>(out.data()));
    std::vector<std::uint8_t> found;
    for (T const x : out) found.push_back(x.bits);
    CHECK(found == wanted);
  });
}

TEST_CASE("every path rounds to the same 8-bit floats", "[isa][encode][fp8]") {
  rounds_alike<e4m3>();
  rounds_alike<e5m2>();
  for (index_t const dim : {40, 64, 96, 128, 200}) {
    codes_alike("keys with scales", fp8_key<e4m3>{}, dim, 9);
    codes_alike("keys with a scale", fp8_key<e5m2>{0, 0, 0.25f}, dim, 32);
    codes_alike("values in groups", fp8_value<e4m3>{0, 8}, dim, 9);
    codes_alike("values with scales", fp8_value<e5m2>{}, dim, 32);
    codes_alike("plain keys", dense_key<e4m3>{}, dim, 16);
    codes_alike("plain values", dense_value<e5m2>{}, dim, 16);
  }
}

template <int Bits>
void directions_alike() {
  for (index_t const dim : {16, 48, 80, 128, 144})
    for (index_t const n : {1, 8, 32}) {
      INFO(Bits << " bits of " << n << " tokens");
      codes_alike("keys", turbo_key<Bits>{}, dim, n);
      codes_alike("values", turbo_value<Bits>{0, 5, turbo_length::decoded}, dim, n);
      codes_alike("values", turbo_value<Bits>{0, 0, {}, turbo_levels::gaussian}, dim, n);
      codes_alike("keys and signs", turbo_key<Bits, turbo_form::inner>{}, dim, n);
      codes_alike("values and signs", turbo_value<Bits, turbo_form::inner>{}, dim, n);
    }
}

TEST_CASE("every path codes directions alike", "[isa][encode][turboquant]") {
  directions_alike<1>();
  directions_alike<3>();
  directions_alike<4>();
}

TEST_CASE("every path rotates alike", "[isa][encode]") {
  for (index_t const n : {1, 2, 4, 8, 16, 32, 64, 80, 96, 128, 512, 1024, 2048})
    for (int kind = 0; kind < 12; ++kind)
      for (std::uint64_t const seed : {0, 7})
        for (bool const back : {false, true}) {
          INFO(n << " channels, kind " << kind << ", seed " << seed << ", back " << back);
          std::mt19937 engine(static_cast<unsigned>(kind));
          std::vector<float> rows(static_cast<std::size_t>(3 * n));
          for (float& x : rows) x = kind < 10 ? sample(kind, engine) : -0.0f;
          same_on_each_path([&] {
            auto x = rows;
            ops::rotate_by_hadamard(x.data(), n, seed, back, 3);
            std::vector<std::uint32_t> bits;
            for (float const y : x) bits.push_back(detail::bit_cast<std::uint32_t>(y));
            return bits;
          });
        }
}

/// Levels in no order, two of them equal, and channels whose thresholds are one.
template <int Bits>
void nearest_alike(index_t dim) {
  INFO(Bits << " bits, head_dim " << dim);
  std::mt19937 engine(static_cast<unsigned>(dim));
  std::vector<float> levels, middle, half;
  for (int i = 0; i < 1 << Bits; ++i) levels.push_back(sample(i % 3 == 0 ? 8 : 0, engine));
  levels[1] = levels[2];
  for (index_t d = 0; d < dim; ++d) {
    middle.push_back(sample(0, engine));
    half.push_back(d % 7 == 3 ? 0.0f : std::abs(sample(0, engine)));
  }
  for (int kind = 0; kind < 13; ++kind) {
    INFO("numbers of kind " << kind);
    std::vector<float> rows(static_cast<std::size_t>(32 * dim));
    for (float& x : rows) x = sample(kind, engine);
    auto const wanted = [&](index_t t, index_t d, index_t p) {
      auto const i = static_cast<std::size_t>(p);
      float const x = rows[static_cast<std::size_t>(t * dim + d)];
      float const y = half[i] > 0.0f ? (x - middle[i]) / half[i] : 0.0f;
      return detail::nearest_level<Bits>(y, levels.data());
    };
    data::on_each_path([&](isa::path) {
      bool equal = true;
      auto const of = [&](index_t d, float& m, float& h) {
        m = middle[static_cast<std::size_t>(d)];
        h = half[static_cast<std::size_t>(d)];
      };
      auto const keys = [&](index_t d, std::uint32_t const* words) {
        for (index_t t = 0; t < 32; ++t)
          for (index_t c = 0; c < 4; ++c)
            equal = equal && (words[t] >> (8 * c) & 255u) == wanted(t, d + c, d + c);
      };
      auto const values = [&](index_t d, std::uint32_t const* words) {
        for (index_t c = 0; c < 32; ++c)
          for (index_t t = 0; t < 4; ++t)
            equal =
                equal && (words[c] >> (8 * t) & 255u) == (d + c < dim ? wanted(t, d + c, t) : 0u);
      };
      static_cast<void>(detail::nearest_of_keys<Bits>(rows.data(), dim, levels.data(), of, keys));
      CHECK(equal);
      static_cast<void>(detail::nearest_of_values<Bits>(rows.data(), dim, levels.data(),
                                                        middle.data(), half.data(), values));
      CHECK(equal);
    });
  }
}

TEST_CASE("every path finds the same next level", "[isa][encode]") {
  for (index_t const dim : {16, 80, 128, 208}) {
    nearest_alike<2>(dim);
    nearest_alike<3>(dim);
    nearest_alike<4>(dim);
  }
}

TEST_CASE("every path stores the same caches", "[isa][encode]") {
  for (index_t const dim : {64, 80, 128}) {
    stores_alike("int8", int_per_token<8>{}, dim);
    stores_alike("int4", int_per_token<4>{}, dim);
    stores_alike("KIVI", kivi<4, 2>{{.residual = 32, .value_group = dim / 2}}, dim);
    stores_alike("f16", dense<f16>{}, dim);
  }
  for (index_t const dim : {64, 80, 128}) {
    stores_alike("centred 8 and 4", centred<8, 4>{}, dim);
    stores_alike("centred 3 and 6", centred<3, 6>{{.residual = 9}}, dim);
    stores_alike("rotated", rotated{int_per_token<4>{}}, dim);
    stores_alike("TurboQuant", turboquant<3, 3, turbo_form::inner>{}, dim);
    stores_alike("KVQuant", kvquant<3, 4, codebook_from::prompt>{}, dim);
  }
  stores_alike("fp4", fp4<fp4_block::nvfp4, fp4_block::mxfp4>{}, 96);
  stores_alike("bf16", dense<bf16>{}, 96);
  stores_alike("f32", dense<float>{}, 96);
  stores_alike("ggml", ggml<ggml_block::q8_0, ggml_block::q5_1>{}, 96);
}

TEST_CASE("a bad channel anywhere is refused on every path", "[isa][encode][bad_input]") {
  data::cache c({.kv_heads = 2, .tokens = 70, .head_dim = 80});
  auto const refuses = [&](auto const& policy, float poison, errc code) {
    for (std::size_t const at : {std::size_t{0}, std::size_t{79}, c.k.size() - 1, c.k.size() / 2}) {
      for (auto* const plane : {&c.k, &c.v}) {
        float const was = (*plane)[at];
        (*plane)[at] = poison;
        std::vector<f16> k, v;
        for (float const x : c.k) k.push_back(from_float<f16>(x));
        for (float const x : c.v) v.push_back(from_float<f16>(x));
        same_on_each_path([&] {
          data::compressed const floats(policy, c.view());
          data::compressed const halves(
              policy,
              dense_cache(std::as_const(k).data(), std::as_const(v).data(), c.shape.extents()));
          CHECK(floats.result.code == code);
          CHECK((floats.result.ok() || floats.storage.untouched()));
          CHECK((halves.result.ok() || halves.storage.untouched()));
          return std::pair{floats.result.code, halves.result.code};
        });
        (*plane)[at] = was;
      }
    }
  };
  refuses(dense<f16>{}, NAN, errc::non_finite);
  refuses(dense<f16>{}, -INFINITY, errc::non_finite);
  refuses(dense<f16>{}, 65504.0f, errc::ok);
  refuses(dense<f16>{}, 65505.0f, errc::non_finite);
  refuses(dense<float>{}, std::numeric_limits<float>::max(), errc::ok);
  refuses(int_per_token<4>{}, NAN, errc::non_finite);
}
