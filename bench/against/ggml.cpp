// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// attend() beside an engine's own attention: ggml's FLASH_ATTN_EXT as llama.cpp or ik_llama.cpp
// calls it for one token, over caches of the same shape and content. All are sampled alternately in
// one run, over caches that are rotated so that every call reads from memory. Prints milliseconds
// per call, medians and quartiles, and how far each output is from float64 attention over the f16
// cache that all were made from. "head-major": the engine's attention over a cache as kvslim lays
// it out.

#include "against/engine.hpp"
#include "support/data.hpp"
#include "support/floor.hpp"
#include "support/read.hpp"

#include <kvslim/exec/openmp.hpp>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>

namespace {

using namespace kvslim;

constexpr index_t q_heads = 32, kv_heads = 8, dim = 128, group = q_heads / kv_heads;

/// Caches that one program attends to, all in turn.
struct rival {
  char const *who, *stored;
  double bytes = 0;  // of one cache
  index_t caches = 0;
  std::vector<double> ms;  // per cache, one per round
  std::vector<float> out = std::vector<float>(static_cast<std::size_t>(q_heads * dim));

  rival(char const* by, char const* as) : who(by), stored(as) {}
  virtual ~rival() = default;
  virtual void attend(int threads) = 0;
};

template <class Policy>
struct ours final : rival {
  using run = bench::run<Policy>;
  bench::cache const& c;
  std::vector<std::unique_ptr<run>> sets;
  bench::buffer scratch;
  std::vector<float> lse = std::vector<float>(static_cast<std::size_t>(q_heads));

  ours(char const* as, Policy const& policy, bench::cache const& source, std::size_t cold)
      : rival("kvslim", as),
        c(source),
        scratch(attend_bytes(make_plan(policy, source.extent).layout(), q_heads)) {
    do {
      sets.push_back(std::make_unique<run>(policy, c));
      if (!sets.back()->compress(c)) std::abort();
      bytes = static_cast<double>(sets.back()->packed.bytes());
      caches = std::ssize(sets);
    } while (bytes * static_cast<double>(caches) < static_cast<double>(cold));
  }
  void attend(int threads) override {
    rows_shape const shape{1, q_heads, 1, dim};
    for (auto const& s : sets)
      if (!kvslim::attend(
              openmp{threads}, s->packed,
              {.q = c.queries(1), .out = dense_rows(out.data(), shape), .lse = lse.data()},
              scratch))
        std::abort();
  }
};

std::uint64_t volatile sink;

/// A plain sum of the bytes of somebody's caches, as fast as each thread reads.
struct plain_read final : rival {
  std::vector<std::pair<std::byte const*, std::size_t>> memory;

  template <class Policy>
  explicit plain_read(ours<Policy> const& of) : rival("plain read", of.stored) {
    for (auto const& s : of.sets) memory.emplace_back(s->storage.data(), s->packed.bytes());
    bytes = of.bytes;
    caches = of.caches;
  }
  void attend(int threads) override {
    index_t const parts = std::ssize(memory) * threads;
    openmp{threads}.for_each(parts, [&](index_t i) {
      auto const [data, size] = memory[static_cast<std::size_t>(i / threads)];
      auto const part = size / static_cast<std::size_t>(threads);
      auto const begin = part / 64 * 64 * static_cast<std::size_t>(i % threads);
      sink = bench::plain_read(data + begin, part);
    });
  }
};

/// The engines' cache is token-major, so that a head's rows lie apart; ggml also reads one that is
/// head-major, as kvslim's are. One graph has a node for every cache, as an engine's for every
/// layer.
struct theirs final : rival {
  ggml_context* context = nullptr;
  ggml_cgraph* graph = nullptr;
  ggml_tensor* last = nullptr;
  std::vector<bench::buffer> memory;
  std::vector<float> q;
  std::vector<ggml_fp16_t> mask;
  std::vector<std::vector<float>> outs;
  engine::runner runner;

  theirs(char const* as, ggml_type type, bool token_major, bench::cache const& c, std::size_t cold)
      : rival(token_major ? engine::name : "head-major", as), q(c.q) {
    index_t const tokens = c.extent.tokens;
    std::size_t const row = ggml_row_size(type, dim),
                      half = row * static_cast<std::size_t>(kv_heads * tokens);
    bytes = 2 * static_cast<double>(half);
    caches = static_cast<index_t>(std::ceil(static_cast<double>(cold) / bytes));
    auto const nodes = static_cast<std::size_t>(caches) * 8;
    context = ggml_init(
        {.mem_size = nodes * ggml_tensor_overhead() + ggml_graph_overhead_custom(nodes, false),
         .mem_buffer = nullptr,
         .no_alloc = true});
    graph = ggml_new_graph_custom(context, nodes, false);
    // Some versions read whole tiles of 64 rows of the mask.
    mask.assign(static_cast<std::size_t>(64 * tokens), ggml_fp32_to_fp16(0.0f));
    outs.assign(static_cast<std::size_t>(caches), out);
    std::vector<float> one(static_cast<std::size_t>(dim));
    for (index_t i = 0; i < caches; ++i) {
      memory.emplace_back(half);
      memory.emplace_back(half);
      ggml_tensor* tensors[2];
      for (std::size_t side : {std::size_t{0}, std::size_t{1}}) {
        auto const& values = side == 0 ? c.k : c.v;
        auto& to = memory[memory.size() - 2 + side];
        if (i > 0) {
          std::memcpy(to.data(), memory[side].data(), half);
        } else {
          for (index_t h = 0; h < kv_heads; ++h)
            for (index_t t = 0; t < tokens; ++t) {
              for (index_t d = 0; d < dim; ++d)
                one[static_cast<std::size_t>(d)] =
                    to_float(values[static_cast<std::size_t>((h * tokens + t) * dim + d)]);
              engine::code_row(
                  type, one.data(),
                  to.data() + row * static_cast<std::size_t>(token_major ? t * kv_heads + h
                                                                         : h * tokens + t),
                  dim);
            }
        }
        tensors[side] = token_major ? ggml_new_tensor_3d(context, type, dim, kv_heads, tokens)
                                    : ggml_new_tensor_3d(context, type, dim, tokens, kv_heads);
        tensors[side]->data = to.data();
        if (token_major) tensors[side] = ggml_permute(context, tensors[side], 0, 2, 1, 3);
      }
      ggml_tensor* const asked = ggml_new_tensor_3d(context, GGML_TYPE_F32, dim, 1, q_heads);
      asked->data = q.data();
      ggml_tensor* const visible = ggml_new_tensor_2d(context, GGML_TYPE_F16, tokens, 64);
      visible->data = mask.data();
      last = ggml_flash_attn_ext(context, asked, tensors[0], tensors[1], visible,
                                 1.0f / std::sqrt(static_cast<float>(dim)), 0.0f, 0.0f);
      last->data = outs[static_cast<std::size_t>(i)].data();
      ggml_build_forward_expand(graph, last);
    }
  }
  theirs(theirs const&) = delete;
  theirs& operator=(theirs const&) = delete;
  ~theirs() override { ggml_free(context); }
  void attend(int threads) override {
    if (!runner.compute(graph, threads)) std::abort();
    out = outs.back();
  }
};

/// Attention in double over the f16 source.
std::vector<double> exact(bench::cache const& c) {
  index_t const tokens = c.extent.tokens;
  std::vector<double> out(static_cast<std::size_t>(q_heads * dim)),
      p(static_cast<std::size_t>(tokens));
  std::vector<double> k(static_cast<std::size_t>(tokens * dim)), v(k.size());
  for (index_t h = 0; h < q_heads; ++h) {
    if (h % group == 0)
      for (std::size_t i = 0; i < k.size(); ++i) {
        auto const at = static_cast<std::size_t>(h / group * tokens * dim) + i;
        k[i] = to_float(c.k[at]);
        v[i] = to_float(c.v[at]);
      }
    double most = -INFINITY, total = 0;
    for (index_t t = 0; t < tokens; ++t) {
      double x = 0;
      for (index_t d = 0; d < dim; ++d)
        x += static_cast<double>(c.q[static_cast<std::size_t>(h * dim + d)]) *
             k[static_cast<std::size_t>(t * dim + d)];
      p[static_cast<std::size_t>(t)] = x / std::sqrt(static_cast<double>(dim));
      most = std::max(most, p[static_cast<std::size_t>(t)]);
    }
    auto* const y = out.data() + h * dim;
    for (index_t t = 0; t < tokens; ++t) {
      double const w = std::exp(p[static_cast<std::size_t>(t)] - most);
      total += w;
      for (index_t d = 0; d < dim; ++d) y[d] += w * v[static_cast<std::size_t>(t * dim + d)];
    }
    for (index_t d = 0; d < dim; ++d) y[d] /= total;
  }
  return out;
}

double distance(std::vector<float> const& a, std::vector<double> const& b) {
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < b.size(); ++i)
    error += std::pow(a[i] - b[i], 2), norm += std::pow(b[i], 2);
  return std::sqrt(error / norm);
}

/// Runs all of them alternately and prints a line for each. False: somebody's output is wrong.
bool race(std::vector<std::unique_ptr<rival>> const& all, std::vector<double> const& right,
          index_t tokens, int threads, int rounds) {
  for (auto const& r : all) r->ms.clear();
  for (int i = -1; i < rounds; ++i)  // the first round only warms up
    for (auto const& r : all) {
      auto const begin = std::chrono::steady_clock::now();
      r->attend(threads);
      std::chrono::duration<double, std::milli> const took =
          std::chrono::steady_clock::now() - begin;
      if (i >= 0) r->ms.push_back(took.count() / static_cast<double>(r->caches));
    }
  bool good = true;
  for (auto const& r : all) {
    auto const s = bench::quartiles(r->ms);
    std::printf("%-16s %-12s %7lld %7d %9.1f %9.3f [%.3f-%.3f]", r->stored, r->who,
                static_cast<long long>(tokens), threads, r->bytes / static_cast<double>(tokens),
                s.median, s.low, s.high);
    if (dynamic_cast<plain_read const*>(r.get()) == nullptr) {
      double const off = distance(r->out, right);
      std::printf("  %.1e", off);
      good = good && off < 0.5;  // four bits lose a quarter here; who reads other bytes, all
    }
    std::printf("\n");
  }
  std::fflush(stdout);
  return good;
}

/// What the engine's library was compiled to use: one built without it is no rival.
std::string instructions() {
  std::string out;
  auto const add = [&](char const* name, int has) {
    if (has != 0) out += std::string(out.empty() ? "" : ", ") + name;
  };
  add("AVX2", ggml_cpu_has_avx2());
  add("AVX-512", ggml_cpu_has_avx512());
  add("AVX-512 VNNI", ggml_cpu_has_avx512_vnni());
  add("NEON", ggml_cpu_has_neon());
  add("SVE", ggml_cpu_has_sve());
  return out.empty() ? "no vectors" : out;
}

/// Memory that is free now; 0 if the system does not say.
std::size_t free_bytes() {
  std::ifstream in("/proc/meminfo");
  for (std::string word; in >> word;)
    if (std::size_t kib = 0; word == "MemAvailable:" && in >> kib) return kib * 1024;
  return 0;
}

template <class Policy>
void enter(std::vector<std::unique_ptr<rival>>& all, char const* as, Policy const& policy,
           bench::cache const& c, std::size_t cold, bool read) {
  auto one = std::make_unique<ours<Policy>>(as, policy, c, cold);
  if (read) all.push_back(std::make_unique<plain_read>(*one));
  all.push_back(std::move(one));
}

}  // namespace

int main(int argc, char** argv) {
  bool const smoke = argc > 1 && std::string(argv[1]) == "--smoke";
  // Up to five forms are held at once: more than the CPU's caches, less than what is free.
  std::size_t cold = std::size_t{704} << 20;
  if (auto const free = free_bytes(); free > 0) cold = std::min(cold, free / 8);
  if (smoke) cold = std::size_t{1} << 20;
  int const rounds = smoke ? 3 : 9;
  engine::begin();
  std::printf(
      "\nattend beside %s's own attention (ggml FLASH_ATTN_EXT, f32 queries, f16 mask of "
      "zeros;\nits library uses %s): one token, %lld query and %lld KV heads of %lld,\n%.0f MB of "
      "caches in turn, medians of %d rounds\n",
      engine::name, instructions().c_str(), static_cast<long long>(q_heads),
      static_cast<long long>(kv_heads), static_cast<long long>(dim),
      static_cast<double>(cold) * 0x1p-20, rounds);
  std::printf("%-16s %-12s %7s %7s %9s %9s %-15s  %s\n", "stored as", "by", "tokens", "threads",
              "B/token", "ms/call", "[quartiles]", "error");
  bool good = true;
  for (index_t tokens : smoke ? std::vector<index_t>{512} : std::vector<index_t>{4096, 16384}) {
    bench::cache const c({1, kv_heads, tokens, dim}, q_heads);
    auto const right = exact(c);
    auto const heat = [&](auto fill) {
      std::vector<std::unique_ptr<rival>> all;
      fill(all);
      for (int threads : {1, 2}) good = race(all, right, tokens, threads, rounds) && good;
    };
    heat([&](auto& all) {
      enter(all, "f16", dense<f16>{}, c, cold, true);
      for (bool token_major : {true, false})
        all.push_back(std::make_unique<theirs>("f16", GGML_TYPE_F16, token_major, c, cold));
    });
    heat([&](auto& all) {
      enter(all, "int8 per token", int_per_token<8>{}, c, cold, true);
      enter(all, "q8_0", kvslim::ggml<ggml_block::q8_0>{}, c, cold, false);
      for (bool token_major : {true, false})
        all.push_back(std::make_unique<theirs>("q8_0", GGML_TYPE_Q8_0, token_major, c, cold));
    });
    heat([&](auto& all) {
      enter(all, "int4 per token", int_per_token<4>{}, c, cold, true);
      enter(all, "KIVI 4 bit", kivi<4>{}, c, cold, false);
      enter(all, "q4_0", kvslim::ggml<ggml_block::q4_0>{}, c, cold, false);
      for (bool token_major : {true, false})
        all.push_back(std::make_unique<theirs>("q4_0", GGML_TYPE_Q4_0, token_major, c, cold));
    });
  }
  if (!good) std::printf("an output is wrong: these times mean nothing\n");
  return good ? 0 : 1;
}
