// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// The same policies, plans and data on both backends: identical kept sets, codes and stored bytes, attention within the bound.
// Exits 77 (skipped) where there is no GPU. Run under compute-sanitizer where there is one.

#include "support/data.hpp"
#include "support/tolerance.hpp"

#include <kvslim/kvslim.cuh>

#include <cstdio>
#include <cstring>

using namespace kvslim;

namespace {

int failures = 0;

void check(bool good, char const* what, char const* name) {
  if (good) return;
  std::printf("FAILED: %s: %s\n", name, what);
  ++failures;
}

/// Device memory, filled from the host.
template <class T>
class device {
 public:
  explicit device(std::size_t count) : count_(count) { check(cudaMalloc(&data_, count * sizeof(T)) == cudaSuccess, "cudaMalloc", "device"); }
  explicit device(std::vector<T> const& host) : device(host.size()) { cudaMemcpy(data_, host.data(), count_ * sizeof(T), cudaMemcpyHostToDevice); }
  device(device const&) = delete;
  device& operator=(device const&) = delete;
  ~device() { cudaFree(data_); }
  T* get() const { return data_; }
  std::vector<T> host() const {
    std::vector<T> out(count_);
    cudaMemcpy(out.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost);
    return out;
  }

 private:
  T* data_ = nullptr;
  std::size_t count_;
};

struct short_values {
  using stage = scorer_tag;
  KVSLIM_HD float score(auto const& token) const {
    float sum = 0;
    for (float x : token.value()) sum += x * x;
    return -sum;
  }
};

/// `exact`: selection depends on no rounding that may differ between the backends, so the stored bytes must be equal.
template <class Policy>
void both(char const* name, Policy const& policy, bool exact) {
  data::shape const shape{.sequences = 2, .kv_heads = 2, .group = 4, .tokens = 200, .head_dim = 64};
  data::cache const c(shape);
  index_t const appended = 70, heads = shape.kv_heads * shape.group, window = 16;
  std::vector<float> scores(2 * 2 * 200);
  for (std::size_t i = 0; i < scores.size(); ++i) scores[i] = static_cast<float>(i * 7919 % 211);
  data::compressed const host(policy, c.view(), evidence{window_queries{c.queries(window)}, token_scores<>{scores.data()}}, appended);
  check(host.result.ok(), host.result.message, name);

  device<float> const k(c.k), v(c.v), q(c.q), given(scores);
  auto const& plan = host.plan;
  device<std::byte> const storage(static_cast<std::size_t>(plan.packed_bytes())), scratch(static_cast<std::size_t>(plan.workspace_bytes()));
  packed_cache<typename std::remove_cvref_t<decltype(plan)>::policy_type, cuda_space> const packed(plan, storage.get(), plan.packed_bytes());
  auto const view = dense_cache<cuda_space, float const>(k.get(), v.get(), shape.extents());
  auto const rows = [&](float const* data, index_t n) {
    return rows_view<float const, cuda_space>{data, shape.sequences, heads, n, 64, {heads * data::cache::window * 64, data::cache::window * 64, 64, 1}};
  };
  cuda const exec{nullptr};
  auto const done = compress(exec, plan, view, evidence{window_queries<float, cuda_space>{rows(q.get(), window)}, token_scores<cuda_space>{given.get()}},
                             packed, scratch.get(), plan.workspace_bytes());
  check(done.ok(), done.message, name);
  check(cudaDeviceSynchronize() == cudaSuccess, "compress ran", name);

  std::vector<float> appended_rows(2 * 2 * 64);
  std::vector<float> host_scratch(static_cast<std::size_t>(append_scratch_floats(plan)));
  device<float> const device_scratch(host_scratch);
  rows_shape const one{2, 2, 1, 64};
  for (index_t i = 0; i < appended; ++i) {
    for (std::size_t j = 0; j < appended_rows.size(); ++j) appended_rows[j] = static_cast<float>((i * 31 + static_cast<index_t>(j) * 17) % 64) / 16.0f - 2.0f;
    auto const h = dense_rows<host_space, float const>(appended_rows.data(), one);
    check(append(cpu{}, host.packed, h, h, host_scratch.data()).ok(), "append on the CPU", name);
    device<float> const row(appended_rows);
    auto const d = dense_rows<cuda_space, float const>(row.get(), one);
    check(append(exec, packed, d, d, device_scratch.get()).ok(), "append on CUDA", name);
    check(cudaDeviceSynchronize() == cudaSuccess, "append ran", name);
  }
  auto const bytes = storage.host();
  auto const used = static_cast<std::size_t>(host.packed.bytes());
  // Kept tokens must be the same for every method, whatever its scores were rounded to.
  data::buffer mirror(plan.packed_bytes());
  std::memcpy(mirror.data(), bytes.data(), bytes.size());
  packed_cache<typename std::remove_cvref_t<decltype(plan)>::policy_type> const read_back(plan, mirror);
  for (index_t s = 0; s < 2; ++s)
    for (index_t h = 0; h < 2; ++h) {
      bool same = read_back.tokens(s, h) == host.packed.tokens(s, h) && read_back.next_position(s, h) == host.packed.next_position(s, h);
      for (index_t t = 0; same && t < host.packed.tokens(s, h); ++t) same = read_back.position(s, h, t) == host.packed.position(s, h, t);
      check(same, "kept tokens are equal", name);
    }
  if (exact) check(std::memcmp(bytes.data(), host.storage.data(), used) == 0, "stored bytes are equal", name);

  // Attention of both backends over the CPU's stored bytes, so that this check stands alone.
  device<std::byte> const same(std::vector<std::byte>(host.storage.data(), host.storage.data() + plan.packed_bytes()));
  packed_cache<typename std::remove_cvref_t<decltype(plan)>::policy_type, cuda_space> const copy(plan, same.get(), plan.packed_bytes());
  std::vector<float> out(static_cast<std::size_t>(2 * heads * 64)), lse(static_cast<std::size_t>(2 * heads));
  check(attend(cpu{}, c.queries(1), host.packed, dense_rows(out.data(), {2, heads, 1, 64}), lse.data()).ok(), "attend on the CPU", name);
  device<float> const device_out(out.size()), device_lse(lse.size());
  check(attend(exec, rows(q.get(), 1), copy, dense_rows<cuda_space>(device_out.get(), {2, heads, 1, 64}), device_lse.get()).ok(), "attend on CUDA", name);
  check(cudaDeviceSynchronize() == cudaSuccess, "attend ran", name);
  auto const got = device_out.host();
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < out.size(); ++i) error += std::pow(got[i] - out[i], 2), norm += std::pow(out[i], 2);
  check(std::sqrt(error / norm) <= tolerance::attend, "attention within the bound", name);
  std::printf("%-24s relative error of attention %.2e\n", name, std::sqrt(error / norm));
}

}  // namespace

int main() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
    std::printf("SKIPPED: no GPU; the kernels were compiled and have not run\n");
    return 77;
  }
  cudaDeviceProp device_properties;
  cudaGetDeviceProperties(&device_properties, 0);
  std::printf("device: %s, sm_%d%d\n", device_properties.name, device_properties.major, device_properties.minor);
  top_k const keep{{.budget = 90, .sinks = 4, .recent = 8}};
  both("dense f16", dense<f16>{}, true);
  both("kivi 2", kivi<2>{{.residual = 64}}, true);
  both("kivi 4", kivi<4>{{.residual = 32}}, true);
  both("kivi 8", kivi<8>{{.residual = 32}}, true);
  both("int 4", int_per_token<4>{}, true);
  both("int 8", int_per_token<8>{}, true);
  both("streaming_llm", pipeline{streaming_llm{}, keep}, true);
  both("streaming_llm rerotated", pipeline{streaming_llm{}, keep, rerotate{}, int_per_token<8>{}}, false);
  both("union of two layers", pipeline{given_scores{}, top_k{{.budget = 60, .granularity = granularity::union_, .layers = 2}}}, true);
  both("given scores", pipeline{given_scores{}, keep, kivi<2>{{.residual = 32}}}, true);
  both("knorm", pipeline{knorm{}, keep, int_per_token<4>{}}, false);
  both("custom scorer", pipeline{short_values{}, keep, kivi<4>{{.residual = 32}}}, false);
  both("snapkv", pipeline{snapkv{{.window = 16}}, keep}, false);
  both("snapkv kvmerger kivi", pipeline{snapkv{{.window = 16}}, keep, kvmerger{{.threshold = 0.5f, .mass_bias = true}}, kivi<2>{{.residual = 32}}}, false);
  std::printf(failures == 0 ? "all passed\n" : "%d failed\n", failures);
  return failures == 0 ? 0 : 1;
}
