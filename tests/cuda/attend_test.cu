// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Everything that an attention request may ask, on both backends over the same stored bytes. Exits
// 77 (skipped) where there is no GPU.

#include "fields.hpp"
#include "support/own_basis.hpp"

using namespace on_device;
using namespace kvslim;

namespace {

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
