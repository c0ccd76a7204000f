// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Everything that an attention request may ask, on both backends over the same stored bytes. Exits
// 77 (skipped) where there is no GPU.

#include "both.hpp"
#include "support/own_basis.hpp"

#include <kvslim/exec/matrix_unit.cuh>

#include <memory>

using namespace on_device;
using namespace kvslim;

namespace {

struct cache {
  char const* name;
  extents e;
  traits has = {};
  logit_rule logit = {};
};

/// A cache with a tail in its ring and, where codecs rewrite, holes among its slots.
template <class Policy>
auto filled(cache const& c, Policy const& policy, bool holes, char const* name) {
  auto const plan = make_plan(policy, c.e,
                              {.append_tokens = 40,
                               .draft_tokens = 40,
                               .evicts = holes,
                               .positions = c.has.positions || c.has.valid,
                               .biases = c.has.bias,
                               .logit = c.logit});
  auto s = std::make_unique<stored<std::remove_const_t<decltype(plan)>>>(plan);
  cells const rows(c.e, c.has, 11);
  data::buffer const scratch(plan.workspace_bytes()), more(append_bytes(plan.layout()));
  passed(compress(cpu{}, plan, rows.view<host_space>(), evidence<>{}, s->on_host, scratch), name);
  asked_rows<f16> const k({c.e.sequences, c.e.kv_heads, 37, c.e.head_dim}, 21),
      v({c.e.sequences, c.e.kv_heads, 37, c.e.value_width()}, 22);
  passed(append(cpu{}, s->on_host, k.on_host(), v.on_host(), more), name);
  std::vector<std::int32_t> victims(static_cast<std::size_t>(c.e.rows()));
  for (std::int32_t const slot : {3, 40, 77}) {
    if (!holes) break;
    for (std::size_t r = 0; r < victims.size(); ++r)
      victims[r] = slot < s->on_host.raw_row(static_cast<index_t>(r)).slots ? slot : -1;
    passed(evict(cpu{}, s->on_host, victims.data()), name);
  }
  return s;
}

template <class T = float, class Policy>
void ask_all(cache const& c, char const* method, Policy const& policy, bool holes,
             std::initializer_list<ask> asks) {
  char name[128];
  std::snprintf(name, sizeof name, "%s, %s", c.name, method);
  auto const s = filled(c, policy, holes, name);
  double worst = 0.0;
  for (ask const& a : asks) worst = std::max(worst, attend_both<T>(*s, a, name));
  std::printf("  %-50s %.1e\n", name, worst);
}

/// What a request may hold, one field after the other, then together.
template <class T = float, class Policy>
void every_field(cache const& c, char const* method, Policy const& policy, bool holes) {
  ask_all<T>(c, method, policy, holes,
             {{.group = 1},
              {.group = 2, .tokens = 3},
              {.group = 4, .tokens = 2, .splits = 2, .window = 50},
              {.group = 3, .tokens = 2, .positions = true},
              {.group = 5, .splits = 7, .spans = true, .logits = true},
              {.group = 8, .sinks = true, .active = true, .base2 = true},
              {.group = 16, .some_sequences = true},
              {.group = 9,
               .tokens = 2,
               .splits = 3,
               .window = 120,
               .positions = true,
               .spans = true,
               .sinks = true,
               .logits = true,
               .active = true,
               .base2 = true,
               .some_sequences = true}});
}

/// Two floats that bf16 holds, in a word.
__device__ std::uint32_t upper_halves(float low, float high) {
  return detail::bit_cast<std::uint32_t>(low) >> 16 | detail::bit_cast<std::uint32_t>(high);
}

/// One warp: c [16, 8] += a [16, 16] b [16, 8] of f16 and again of bf16, and m [8, 8] of words of
/// 16 bits transposed.
__global__ void multiply(float const* a, float const* b, float* c, std::uint16_t* m) {
  int const lane = static_cast<int>(threadIdx.x), g = lane / 4, t = lane % 4;
  std::uint32_t of_a[4], of_b[2], bf16_of_a[4], bf16_of_b[2];
  for (int i = 0; i < 4; ++i) {
    float const* const from = a + (g + i % 2 * 8) * 16 + 2 * t + i / 2 * 8;
    of_a[i] = detail::halves(from[0], from[1]);
    bf16_of_a[i] = upper_halves(from[0], from[1]);
  }
  for (int i = 0; i < 2; ++i) {
    float const* const from = b + (2 * t + i * 8) * 8 + g;
    of_b[i] = detail::halves(from[0], from[8]);
    bf16_of_b[i] = upper_halves(from[0], from[8]);
  }
  float of_c[4];
  for (int i = 0; i < 4; ++i) of_c[i] = c[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
  detail::mma(of_c, of_a, of_b[0], of_b[1]);
  detail::mma_bf16(of_c, bf16_of_a, bf16_of_b[0], bf16_of_b[1]);
  for (int i = 0; i < 4; ++i) c[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = of_c[i];
  auto* const two = m + g * 8 + 2 * t;
  std::uint32_t const turned =
      detail::transposed(two[0] | static_cast<std::uint32_t>(two[1]) << 16);
  two[0] = static_cast<std::uint16_t>(turned);
  two[1] = static_cast<std::uint16_t>(turned >> 16);
}

/// Matrix instructions against plain products; A holds subnormals of f16, as codes are.
void matrix_unit() {
  char const* const name = "matrix unit";
  std::vector<float> a(256), b(128), c(128);
  std::vector<std::uint16_t> m(64);
  for (std::size_t i = 0; i < a.size(); ++i) a[i] = static_cast<float>(i * 7 % 256) * 0x1p-24f;
  for (std::size_t i = 0; i < b.size(); ++i) b[i] = static_cast<float>(i * 37 % 101) - 50.0f;
  for (std::size_t i = 0; i < c.size(); ++i) c[i] = static_cast<float>(i) * 0x1p-20f;
  for (std::size_t i = 0; i < m.size(); ++i) m[i] = static_cast<std::uint16_t>(i * 1031);
  device<float> const da(a), db(b), dc(c);
  device<std::uint16_t> const dm(m);
  passed(detail::launch(gpu, {1, 32}, multiply, da.get(), db.get(), dc.get(), dm.get()), name);
  synchronized("one warp", name);
  auto const product = dc.host();
  auto const turned = dm.host();
  for (std::size_t row = 0; row < 16; ++row)
    for (std::size_t column = 0; column < 8; ++column) {
      float sum = c[row * 8 + column];  // all of it fits a float
      for (std::size_t k = 0; k < 16; ++k) sum += 2.0f * a[row * 16 + k] * b[k * 8 + column];
      check(product[row * 8 + column] == sum, "a product of matrices", name);
    }
  for (std::size_t i = 0; i < m.size(); ++i)
    check(turned[i] == m[i % 8 * 8 + i / 8], "a transposed matrix", name);
}

/// Codecs whose units are fragments, at shapes that do not divide; stored bytes stay. Not all of
/// them take `every_width`.
template <class Policy>
void runs(char const* method, Policy const& policy_for, bool every_width = true) {
  auto const ask_of = [&](extents const& e, std::initializer_list<ask> asks) {
    char name[128];
    std::snprintf(name, sizeof name, "%d tokens, %d channels, %s", static_cast<int>(e.tokens),
                  static_cast<int>(e.head_dim), method);
    auto const plan = make_plan(policy_for(e), e);
    using layout = std::remove_cvref_t<decltype(plan.layout())>;
    static_assert(
        detail::reads_runs<typename layout::key_codec_type, typename layout::value_codec_type>());
    if (!every_width && plan.check().code == errc::invalid_shape) return;
    stored<std::remove_const_t<decltype(plan)>> s(plan);
    cells rows(e, {}, 11);
    for (std::size_t i = 0; i < rows.v.size(); ++i)  // tokens of very different sizes
      rows.v[i] *= std::exp2(
          static_cast<float>(i / static_cast<std::size_t>(e.value_width()) * 5 % 17) - 12.0f);
    data::buffer const scratch(plan.workspace_bytes());
    passed(compress(cpu{}, plan, rows.view<host_space>(), evidence<>{}, s.on_host, scratch), name);
    double worst = 0.0;
    for (ask const& a : asks) worst = std::max(worst, attend_both(s, a, name));
    auto const after = s.device_storage.host();
    check(same(after.data(), s.storage.data(), static_cast<index_t>(after.size())),
          "stored bytes stay", name);
    std::printf("  %-50s %.1e\n", name, worst);
  };
  ask_of({1, 1, 1, 64}, {{.group = 1}, {.group = 16}});
  ask_of({1, 1, 31, 80}, {{.group = 3}});
  ask_of({1, 1, 33, 128}, {{.group = 3}, {.group = 8}});
  ask_of({1, 1, 70, 256}, {{.group = 4}, {.group = 3, .tokens = 2, .spans = true, .logits = true}});
  ask_of({1, 1, 1000, 80}, {{.group = 4}, {.group = 7, .fast = true}});
  ask_of({1, 1, 1000, 128}, {{.group = 1, .splits = 3}, {.group = 16}, {.group = 8, .fast = true}});
  ask_of({1, 1, 300, 64, 144}, {{.group = 8, .splits = 2, .window = 77},
                                {.group = 3, .tokens = 2, .logits = true, .fast = true}});
  // Four warps share a run: of latents, of a V that ends within the third's channels.
  ask_of({1, 1, 300, 576, 512},
         {{.group = 16, .splits = 2}, {.group = 3, .logits = true, .fast = true}});
  ask_of({1, 1, 100, 576, 272}, {{.group = 5, .tokens = 2, .spans = true}, {.group = 1}});
  ask_of({1, 1, 96, 64, 384}, {{.group = 4}, {.group = 8, .splits = 2}});
}

/// V as a slice of K, where lanes may read 32 channels of it and where they may not.
template <element T>
void slices(char const* name) {
  for (index_t const width : {512, 80, 64, 16}) {
    index_t const dim = width == 512 ? 576 : width;
    cache const latents{"latents", {1, 2, width == 512 ? 200 : 300, dim, width}};
    ask_all(latents, name, codec_pair{dense_key<T>{}, slice_of_key{dense_key<T>{}, dim}}, false,
            {{.group = 16, .splits = 2},
             {.group = 3, .tokens = 2, .window = 100, .spans = true, .logits = true},
             {.group = 7, .fast = true}});
  }
}

/// Queries and rows whose products leave f16, or float: what no fragment holds.
void sizes_of_queries() {
  auto const s =
      filled({"", {1, 1, 100, 64}}, int_per_token<4>{}, false, "large and small queries");
  for (float const size : {1e-30f, 1e-6f, 20.0f, 1e33f}) {
    request<> x(*s, {.group = size == 20.0f ? 6 : 3});
    s->upload();
    std::vector<float> q = floats(x.q.host);
    for (float& y : q) y *= size;
    device<float> const dq(q);
    x.on_host.q.data = q.data();
    x.on_gpu.q.data = dq.get();
    passed(attend(cpu{}, s->on_host, x.on_host), "large and small queries");
    passed(attend(gpu, s->on_gpu, x.on_gpu), "large and small queries");
    check(distance(x.dout.host(), x.out) <= tolerance::attend, "outputs",
          "large and small queries");
    check(log_distance(x.dlse.host(), x.lse) <= tolerance::attend, "log-sum-exp",
          "large and small queries");
  }
}

/// Rows of very unlike lengths, two of them empty, in splits: within the bound, and bit for bit the
/// same whichever split comes last, call after call with one scratch, on a stream and in a graph.
template <class Policy>
void ragged(char const* method, Policy const& policy, index_t head_dim) {
  char name[128];
  std::snprintf(name, sizeof name, "ragged rows, %d channels, %s", static_cast<int>(head_dim),
                method);
  auto const plan = make_plan(policy, {3, 2, 700, head_dim});
  stored<std::remove_const_t<decltype(plan)>> s(plan);
  cells rows(plan.extents(), {.lengths = true, .per_head = true}, 17);
  rows.lengths = {1, 0, 700, 65, 0, 32};
  data::buffer const scratch(plan.workspace_bytes());
  passed(compress(cpu{}, plan, rows.view<host_space>(), evidence<>{}, s.on_host, scratch), name);
  double worst = 0.0;
  for (index_t group = 1; group <= 8; ++group) {
    index_t const splits = 1 + group % 4 * 11;
    ask const what{.group = group, .splits = splits, .sinks = group % 3 == 0};
    worst = std::max(worst, attend_both(s, what, name));
  }
  ask const many{.group = 5, .tokens = 2, .splits = 300, .active = true};
  worst = std::max(worst, attend_both(s, many, name));
  request<> x(s, {.group = 8, .splits = 9});
  device_scratch const memory(attend_bytes(gpu, plan.layout(), x.q.shape.heads, 1, 9));
  cudaStream_t stream = nullptr;
  cudaGraph_t captured = nullptr;
  cudaGraphExec_t graph = nullptr;
  check(cudaStreamCreate(&stream) == cudaSuccess, "a stream", name);
  passed(attend(kvslim::cuda{stream}, s.on_gpu, x.on_gpu, memory), name);
  check(cudaStreamSynchronize(stream) == cudaSuccess, "attend ran", name);
  auto const out = x.dout.host(), lse = x.dlse.host();
  auto const again = [&](char const* what) {
    check(cudaStreamSynchronize(stream) == cudaSuccess, "attend ran", name);
    check(same(x.dout.host(), out) && same(x.dlse.host(), lse), what, name);
    cudaMemset(x.dout.get(), 0, out.size() * sizeof(float));
  };
  for (int i = 0; i < 3; ++i) {
    passed(attend(kvslim::cuda{stream}, s.on_gpu, x.on_gpu, memory), name);
    again("the same bits again");
  }
  cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal);
  passed(attend(kvslim::cuda{stream}, s.on_gpu, x.on_gpu, memory), name);
  check(cudaStreamEndCapture(stream, &captured) == cudaSuccess, "nothing waited", name);
  check(cudaGraphInstantiate(&graph, captured, 0) == cudaSuccess, "a graph", name);
  for (int i = 0; i < 3; ++i) {
    check(cudaGraphLaunch(graph, stream) == cudaSuccess, "launch", name);
    again("the same bits from a graph");
  }
  cudaGraphExecDestroy(graph);
  cudaGraphDestroy(captured);
  cudaStreamDestroy(stream);
  std::printf("  %-50s %.1e\n", name, worst);
}

/// Scratch on a stream: as stated, and never more than what serves the host.
void scratch_bytes() {
  char const* const name = "scratch";
  auto const plan = make_plan(int_per_token<4>{}, {3, 2, 100, 64, 96});
  auto const& layout = plan.layout();
  check(attend_bytes(gpu, layout, 8, 2) == 0, "none for whole rows", name);
  // 6 rows, each of 5 splits of 4 heads and 2 tokens, 99 floats, and one count of 8 heads.
  check(attend_bytes(gpu, layout, 8, 2, 5) == 6 * (5 * 8 * 99 + 1) * 4, "as stated", name);
  check(attend_bytes(gpu, layout, 10, 2, 5) == 6 * (5 * 10 * 99 + 2) * 4, "two pieces", name);
  check(attend_bytes(gpu, layout, 7, 1, 5) == 0, "heads that do not divide", name);
  for (index_t const heads : {2, 6, 16, 34, 4096})
    for (index_t const tokens : {1, 3, 100})
      for (index_t const splits : {2, 7, 65536}) {
        auto const least = attend_bytes(gpu, layout, heads, tokens, splits);
        check(least > 0 && least <= attend_bytes(layout, heads, tokens, splits), "no more", name);
      }
}

/// What the host can see is refused, and nothing was written.
void refuses() {
  char const* const name = "refusals";
  auto const s = filled({"", {2, 2, 64, 32}}, int_per_token<8>{}, false, name);
  s->upload();
  request<> x(*s, {.group = 2});
  auto const code = [&](auto const& change, index_t bytes = 0) {
    auto a = x.on_gpu;
    change(a);
    device_scratch const memory(static_cast<std::size_t>(bytes));
    return attend(gpu, s->on_gpu, a, bytes > 0 ? workspace(memory) : workspace{}).code;
  };
  auto const unchanged = [](auto&) {};
  check(code(unchanged) == errc::ok, "a request that is well", name);
  check(code([](auto& a) { a.q.data = nullptr; }) == errc::invalid_pointer, "no queries", name);
  check(code([](auto& a) { a.lse = nullptr; }) == errc::invalid_pointer, "no lse", name);
  check(code([](auto& a) { a.q.heads = 3; }) == errc::invalid_shape, "heads", name);
  check(code([](auto& a) { a.splits = 0; }) == errc::invalid_option, "no splits", name);
  check(code([](auto& a) { a.splits = 2; }) == errc::invalid_pointer, "no scratch", name);
  auto const needed =
      static_cast<index_t>(attend_bytes(gpu, s->plan.layout(), x.q.shape.heads, 1, 2));
  auto const before = x.dout.host();
  check(code([](auto& a) { a.splits = 2; }, needed - 1) == errc::buffer_too_small, "scratch", name);
  check(same(x.dout.host(), before), "nothing was written", name);
  check(code([](auto& a) { a.splits = 2; }, needed) == errc::ok, "all the scratch", name);
  check(code([](auto& a) { a.visible.begin_end = reinterpret_cast<std::int32_t const*>(64); }) ==
            errc::invalid_pointer,
        "spans without counts", name);
  // 2^17 query heads in pieces of 8, 65536 splits: 2^31 blocks and more.
  auto const plan = make_plan(dense<f16>{}, extents{1, 1, 8, 4});
  packed_cache const large(plan, s->device_storage.get(), s->storage.size(), cuda_space{});
  attend_request<cuda_space> a = x.on_gpu;
  a.q.sequences = a.out.sequences = 1;
  a.q.heads = a.out.heads = index_t{1} << 19;
  a.q.head_dim = a.out.head_dim = 4;
  a.splits = 65536;
  auto const memory = attend_bytes(gpu, plan.layout(), a.q.heads, 1, a.splits);
  check(attend(gpu, large, a, {s->device_storage.get(), memory}).code == errc::unsupported,
        "a grid beyond CUDA's", name);
  a.q.heads = a.out.heads = index_t{1} << 21;  // attend_bytes() is 0
  check(attend(gpu, large, a, {s->device_storage.get(), memory}).code == errc::invalid_shape,
        "too much at once", name);
}

/// Storage that was never filled is an empty cache.
void never_filled() {
  char const* const name = "never filled";
  stored s(make_plan(int_per_token<8>{}, extents{1, 2, 64, 32}));
  asked_rows<float> const q({1, 4, 1, 32}, 3);
  device<float> const out(std::vector<float>(4 * 32, 7.0f)), lse(std::vector<float>(4, 7.0f));
  attend_request<cuda_space> const a{
      .q = q.on_gpu(), .out = dense_rows<cuda_space>(out.get(), {1, 4, 1, 32}), .lse = lse.get()};
  passed(attend(gpu, s.on_gpu, a), name);
  check(out.host() == std::vector<float>(4 * 32, 0.0f), "nothing comes out", name);
  check(lse.host() == std::vector<float>(4, -INFINITY), "no mass", name);
  auto split = a;
  split.splits = 3;
  device_scratch const memory(attend_bytes(gpu, s.plan.layout(), 4, 1, 3));
  cudaMemset(out.get(), 1, out.size() * sizeof(float));
  cudaMemset(lse.get(), 1, lse.size() * sizeof(float));
  passed(attend(gpu, s.on_gpu, split, memory), name);
  check(out.host() == std::vector<float>(4 * 32, 0.0f), "nothing comes out of splits", name);
  check(lse.host() == std::vector<float>(4, -INFINITY), "no mass in splits", name);
}

/// Segments of one sequence, attended apart and finished together, also in place.
void finishes() {
  char const* const name = "finish";
  auto const a = filled({"", {2, 2, 100, 64}}, int_per_token<8>{}, false, name);
  auto const b = filled({"", {2, 2, 40, 64}}, kivi<4>{{.residual = 32}}, false, name);
  ask const what{.group = 2, .tokens = 2},
      end{.group = 2, .tokens = 2, .sinks = true, .base2 = true};
  request<> x(*a, what), y(*b, what), whole(*a, end);
  auto const on_both = [&](auto const& s, request<>& r) {
    data::buffer const scratch(attend_bytes(s.plan.layout(), r.q.shape.heads, 2));
    s.upload();
    passed(attend(cpu{}, s.on_host, r.on_host, scratch), name);
    passed(attend(gpu, s.on_gpu, r.on_gpu), name);
  };
  on_both(*a, x);
  on_both(*b, y);
  rows_shape const shape{2, 4, 2, 64};
  auto const part = [&](request<> const& r) {
    return attention_part<>{dense_rows<host_space, float const>(r.out.data(), shape), r.lse.data()};
  };
  auto const device_part = [&](request<> const& r) {
    return attention_part<cuda_space>{dense_rows<cuda_space, float const>(r.dout.get(), shape),
                                      r.dlse.get()};
  };
  attention_part<> const host[] = {part(x), part(y)};
  attention_part<cuda_space> const device[] = {device_part(x), device_part(y)};
  passed(finish(cpu{}, {host, 2}, whole.on_host), name);
  passed(finish(gpu, {device, 2}, whole.on_gpu), name);
  auto const out = whole.dout.host();
  check(distance(out, whole.out) <= tolerance::attend, "outputs", name);
  check(log_distance(whole.dlse.host(), whole.lse) <= tolerance::attend, "log-sum-exp", name);
  auto in_place = whole.on_gpu;
  in_place.out = x.on_gpu.out;
  in_place.lse = x.on_gpu.lse;
  passed(finish(gpu, {device, 2}, in_place), name);
  check(same(x.dout.host(), out) && same(x.dlse.host(), whole.dlse.host()), "in place", name);
  std::vector<attention_part<cuda_space>> const many(17, device[0]);
  check(finish(gpu, {many.data(), 17}, in_place).code == errc::unsupported, "too many parts", name);
}

}  // namespace

int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("skipped: no CUDA device\n");
    return 77;
  }
  every_field({"plain", {3, 2, 200, 64}}, "int 8", int_per_token<8>{}, true);
  every_field({"capped", {3, 2, 200, 40}, {}, {.scale = 0.3f, .soft_cap = 4.0f}}, "kivi 4",
              kivi<4>{{.residual = 32, .value_group = 8}}, false);
  every_field({"capped", {3, 2, 200, 48, 32}, {}, {.scale = 0.3f, .soft_cap = 4.0f}}, "kivi 4",
              kivi<4>{{.residual = 32}}, false);
  traits const odd{
      .lengths = true, .positions = true, .valid = true, .bias = true, .per_head = true};
  every_field<f16>({"any order", {3, 2, 150, 32}, odd}, "int 8", int_per_token<8>{}, true);
  every_field<bf16>({"narrow V", {2, 2, 150, 32, 17}}, "dense f16", dense<f16>{}, true);
  every_field({"any order", {2, 2, 150, 48}, odd}, "dense f16", dense<f16>{}, true);
  using own_basis::turn, own_basis::turned;
  every_field<f16>({"any order", {3, 2, 150, 40, 24}, odd}, "a basis of one's own",
                   codec_pair{turned<>{turn::padded, 5}, turned<>{turn::pairs, 5}}, true);
  ask_all({"wide", {1, 2, 300, 256}}, "a basis of one's own",
          codec_pair{turned<>{turn::reversed, 40}, turned<>{turn::reversed, 40}}, false,
          {{.group = 8}, {.group = 3, .splits = 2}});
  ask_all({"80 channels", {1, 2, 300, 80, 96}}, "rotated",
          rotated{int_per_token<8>{{.residual = 9}}}, false,
          {{.group = 8}, {.group = 3, .tokens = 2, .splits = 2}});
  ask_all({"latent", {1, 1, 130, 576, 512}}, "dense f16", dense<f16>{}, false,
          {{.group = 16}, {.group = 3, .splits = 2}});
  ask_all({"latent", {1, 1, 130, 576, 512}}, "a slice of K",
          codec_pair{dense_key<f16>{}, slice_of_key{dense_key<f16>{}, 576}}, false, {{.group = 6}});
  ask_all({"widest", {1, 1, 40, 1024}}, "int 8", int_per_token<8>{}, false,
          {{.group = 3}, {.group = 1, .splits = 2}});
  ask_all({"thousands of tokens", {1, 1, 6000, 32}}, "int 8", int_per_token<8>{}, false,
          {{.group = 4}, {.group = 1, .splits = 5}, {.group = 8, .tokens = 2, .window = 3000}});
  matrix_unit();
  runs("int 4", [](extents const&) { return int_per_token<4>{}; });
  auto const kivi_of = [](extents const& e) {
    index_t const width = e.value_width();
    return kivi<4>{{.residual = 32, .value_group = width % 32 == 0 ? 32 : width}};
  };
  runs("kivi 4", kivi_of);
  runs("kivi 2", [](extents const& e) {
    index_t const width = e.value_width();
    return kivi<2>{{.group = 64, .residual = 64, .value_group = width % 64 == 0 ? 64 : width}};
  });
  runs(
      "rotated int 4", [](extents const&) { return rotated{int_per_token<4>{}}; }, false);
  runs(
      "rotated kivi 4", [=](extents const& e) { return rotated{kivi_of(e)}; }, false);
  runs("zipcache 4", [](extents const&) { return zipcache<4>{}; });
  runs("zipcache 2", [](extents const&) { return zipcache<2>{{.residual = 7}}; });
  runs("dense f16", [](extents const&) { return dense<f16>{}; });
  runs("dense bf16", [](extents const&) { return dense<bf16>{}; });
  slices<f16>("a slice of f16");
  slices<bf16>("a slice of bf16");
  for (index_t const head_dim : {64, 128}) {
    ragged("int 4", int_per_token<4>{}, head_dim);
    ragged("kivi 4", kivi<4>{{.residual = 32}}, head_dim);
    ragged("dense f16", dense<f16>{}, head_dim);
  }
  ragged("a basis of one's own", codec_pair{turned<>{turn::padded, 5}, turned<>{turn::pairs, 5}},
         64);
  sizes_of_queries();
  scratch_bytes();
  refuses();
  never_filled();
  finishes();
  std::printf(failures == 0 ? "both backends agree\n" : "%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
