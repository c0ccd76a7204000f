// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// A running batch on both backends: sequences leave, others join, several caches are attended as
// one, and an index chooses the pages that a query reads. Exits 77 (skipped) where there is no GPU.

#include "both.hpp"

#include <memory>

using namespace on_device;
using namespace kvslim;

namespace {

template <class Policy>
auto filled(Policy const& policy, extents const& e, plan_options const& o, traits has,
            index_t appended, unsigned seed, char const* name) {
  auto const plan = make_plan(policy, e, o);
  auto s = std::make_unique<stored<std::remove_const_t<decltype(plan)>>>(plan);
  cells const c(e, has, seed);
  s->compress(c, evidence<>{}, evidence<>{}, name);
  data::buffer const scratch(append_bytes(plan.layout())), work(settle_bytes(plan.layout()));
  device_scratch const memory(scratch.size()), more(work.size());
  for (index_t i = 0; i < appended; ++i) {
    asked_rows<float> const k({e.sequences, e.kv_heads, 1, e.head_dim}, seed + 7),
        v({e.sequences, e.kv_heads, 1, e.value_width()}, seed + 8);
    passed(append(cpu{}, s->on_host, k.on_host(), v.on_host(), scratch), name);
    passed(append(gpu, s->on_gpu, k.on_gpu(), v.on_gpu(), memory), name);
    passed(settle(cpu{}, s->on_host, work), name);
    passed(settle(gpu, s->on_gpu, more), name);
  }
  synchronized("the cache was filled", name);
  return s;
}

template <class Policy>
void leaves_and_joins(char const* name, Policy const& policy, extents const& e, traits has = {}) {
  extents const one{1, e.kv_heads, 83, e.head_dim, e.value_dim};
  plan_options o{
      .append_tokens = 20, .draft_tokens = 3, .row_slots = 100, .evicts = true, .biases = has.bias};
  auto const batch = filled(policy, e, o, has, 6, 40, name);
  auto const alone = filled(policy, one, o, has, 9, 60, name);
  step const gone{.first_sequence = 1, .sequences = 1};
  passed(leave(batch->on_host, gone), name);
  passed(leave(gpu, batch->on_gpu, gone), name);
  synchronized("leave ran", name);
  batch->same(name);
  data::buffer const scratch(append_bytes(batch->plan.layout()));
  device_scratch const memory(scratch.size());
  passed(join(cpu{}, alone->on_host, 0, batch->on_host, 1, scratch), name);
  passed(join(gpu, alone->on_gpu, 0, batch->on_gpu, 1, memory), name);
  synchronized("join ran", name);
  batch->same(name);
  attend_both(*batch, {.group = 2, .tokens = 2}, name);

  // A sequence that needs more room than its place has is not copied at all.
  o.row_slots = 0;
  o.append_tokens = 1;
  auto const small =
      filled(policy, {2, e.kv_heads, 20, e.head_dim, e.value_dim}, o, {}, 0, 70, name);
  check(join(cpu{}, alone->on_host, 0, small->on_host, 1, scratch).code == errc::capacity_exceeded,
        "the host refuses", name);
  auto const before = small->row(2);
  passed(join(gpu, alone->on_gpu, 0, small->on_gpu, 1, memory), name);
  synchronized("join ran", name);
  for (index_t h = 0; h < e.kv_heads; ++h)
    check(small->row(e.kv_heads + h).failed == static_cast<int>(errc::capacity_exceeded),
          "the device says so", name);
  check(small->row(e.kv_heads).slots == 20 && small->row(0).failed == 0 &&
            before.next_position == small->row(2).next_position,
        "the place is as it was", name);
  // What the device refuses before it starts.
  check(join(gpu, alone->on_gpu, 1, batch->on_gpu, 1, memory).code == errc::invalid_shape,
        "no such sequence", name);
  check(join(gpu, batch->on_gpu, 0, batch->on_gpu, 1, memory).code == errc::invalid_pointer,
        "the same cache", name);
  check(join(gpu, alone->on_gpu, 0, batch->on_gpu, 1, {memory.get(), 0}).code ==
            errc::buffer_too_small,
        "no scratch", name);
  check(leave(gpu, batch->on_gpu, {.first_sequence = 9}).code == errc::invalid_shape,
        "no such place", name);
}

/// Sinks, body and tail in three caches of other codecs, as one.
void segments(ask const& a, char const* name) {
  extents const e{2, 2, 70, 32};
  traits const has{.positions = true, .ascending = true};
  auto const first = filled(dense<f16>{}, {2, 2, 4, 32}, {.positions = true}, has, 0, 80, name);
  auto const body = filled(kivi<4>{{.residual = 32}}, e, {.append_tokens = 12, .positions = true},
                           has, 0, 81, name);
  auto const last =
      filled(int_per_token<8>{}, e, {.append_tokens = 12, .positions = true}, has, 9, 82, name);
  request<> x(*last, a);
  auto const bytes = segments_bytes(x.q.shape.heads, a.tokens, a.splits, first->plan.layout(),
                                    body->plan.layout(), last->plan.layout());
  data::buffer const scratch(bytes);
  device_scratch const memory(bytes);
  passed(attend_segments(cpu{}, x.on_host, scratch, first->on_host, body->on_host, last->on_host),
         name);
  passed(attend_segments(gpu, x.on_gpu, memory, first->on_gpu, body->on_gpu, last->on_gpu), name);
  synchronized("attend_segments ran", name);
  check(distance(x.dout.host(), x.out) <= tolerance::attend, "attention within the bound", name);
  check(log_distance(x.dlse.host(), x.lse) <= tolerance::attend, "log-sum-exp", name);
  check(attend_segments(gpu, x.on_gpu, {memory.get(), bytes - 1}, first->on_gpu, body->on_gpu,
                        last->on_gpu)
                .code == errc::buffer_too_small,
        "scratch", name);
  x.on_gpu.logits = x.dlse.get();
  check(
      attend_segments(gpu, x.on_gpu, memory, first->on_gpu, body->on_gpu).code == errc::unsupported,
      "logits", name);
}

/// More rows than a block has threads.
void many_rows() {
  auto const s = filled(dense<f16>{}, {301, 2, 3, 4}, {}, {}, 0, 21, "602 rows");
  s->same("602 rows", true);
}

/// Which split each block takes.
template <class Packed>
__global__ void cut(Packed packed, attend_request<cuda_space> a, detail::attend_cut x,
                    detail::split_place* out) {
  KVSLIM_DETAIL_DYNAMIC_SHARED(shared);
  bool const found = detail::find_split(packed, a, x, shared);
  if (threadIdx.x == 0)
    out[blockIdx.x] = found ? *reinterpret_cast<detail::split_place const*>(shared)
                            : detail::split_place{-1, 0, 0, 0, 0, 0, {}};
}

/// What a request sees of every row: all, or of every three pages of so many slots the second one;
/// of every fifth row then nothing.
struct shown {
  int page = 0;
  std::vector<std::int32_t> spans = {}, counts = {};
  int most = 0;

  shown(int slots, std::vector<std::int32_t> const& lengths) : page(slots) {
    if (page == 0) return;
    most = 3200 / (3 * page) + 1;
    for (std::size_t r = 0; r < lengths.size(); ++r) {
      std::int32_t n = 0;
      for (int i = 0; i < most; ++i) {
        std::int32_t const from = (3 * i + 1) * page;
        n += from < lengths[r] && r % 5 != 4 ? 1 : 0;
        spans.insert(spans.end(), {from, from + page});
      }
      counts.push_back(n);
    }
  }
  /// Runs of slots [begin, end) of a row that are read.
  [[nodiscard]] int runs(std::size_t row, int begin, int end) const {
    if (page == 0) return (end + 31) / 32 - begin / 32;
    int sum = 0;
    for (int i = 0; i < counts[row]; ++i) {
      std::size_t const at =
          (row * static_cast<std::size_t>(most) + static_cast<std::size_t>(i)) * 2;
      int const from = std::max(begin, spans[at]), to = std::min(end, spans[at + 1]);
      if (from < to) sum += (to + 31) / 32 - from / 32;
    }
    return sum;
  }
};

/// Every split of every active row finds a block of its own, splits of a row have all its slots
/// one after the other, and the longest split is at most an eighth above the shortest longest one
/// that there are blocks for.
void even_splits(char const* name, index_t kv_heads, std::vector<std::int32_t> const& lengths,
                 int splits, bool some = false, int page = 0) {
  auto const rows = static_cast<int>(lengths.size());
  auto const plan = make_plan(dense<f16>{}, {rows / kv_heads, kv_heads, 3200, 4});
  stored<std::remove_const_t<decltype(plan)>> s(plan);
  cells c(plan.extents(), {.lengths = true, .per_head = true}, 5);
  c.lengths = lengths;
  data::buffer const scratch(plan.workspace_bytes());
  passed(compress(cpu{}, plan, c.view<host_space>(), evidence<>{}, s.on_host, scratch), name);
  s.upload();
  std::vector<std::uint8_t> active;
  for (index_t i = 0; i < rows / kv_heads; ++i) active.push_back(!some || i % 2 == 0 ? 1 : 0);
  device<std::uint8_t> const dactive(active);
  shown const seen(page, lengths);
  device<std::int32_t> const dspans(seen.spans), dcounts(seen.counts);
  attend_request<cuda_space> a;
  a.active = dactive.get();
  if (page > 0) a.visible = {dspans.get(), dcounts.get(), seen.most};
  detail::attend_cut x{};
  x.pieces = 1;
  x.splits = splits;
  x.rows = rows;
  auto const blocks = static_cast<std::size_t>(rows * splits);
  device<detail::split_place> const out(blocks);
  using packed_type = typename decltype(s)::device_cache;
  passed(detail::launch(gpu, {static_cast<index_t>(blocks), detail::attend_threads, 64},
                        cut<packed_type>, s.on_gpu, a, x, out.get()),
         name);
  synchronized("rows were cut", name);
  auto const count = [&](int most) {
    std::size_t sum = 0;
    for (std::size_t r = 0; r < lengths.size(); ++r)
      if (active[r / static_cast<std::size_t>(kv_heads)] != 0)
        sum +=
            static_cast<std::size_t>(std::max(1, (seen.runs(r, 0, lengths[r]) + most - 1) / most));
    return sum;
  };
  int best = 1, longest = 0;
  while (count(best) > blocks) ++best;
  std::vector<int> next(lengths.size()), end(lengths.size());
  bool good = true;
  auto const places = out.host();
  for (std::size_t i = 0; i < blocks; ++i) {
    auto const& p = places[i];
    if (p.row < 0) continue;
    auto const r = static_cast<std::size_t>(p.row);
    good = good && p.split == next[r]++ && p.splits >= next[r] && p.place == static_cast<int>(i);
    good = good && p.begin == end[r] && p.begin <= p.end;
    end[r] = p.end;
    int const all = seen.runs(r, 0, lengths[r]), share = (all + p.splits - 1) / p.splits;
    good = good && seen.runs(r, p.begin, p.end) <= share;
    longest = std::max(longest, share);
  }
  for (std::size_t i = 0; i < blocks; ++i)
    if (auto const& p = places[i]; p.row >= 0)
      good = good && next[static_cast<std::size_t>(p.row)] == p.splits;
  for (std::size_t r = 0; r < lengths.size(); ++r)
    good = good && (next[r] > 0) == (active[r / static_cast<std::size_t>(kv_heads)] != 0) &&
           (next[r] == 0 || end[r] == lengths[r]);
  check(good, "every split has one block", name);
  check(splits == 1 || 8 * longest <= 9 * best, "splits of even lengths", name);
}

void cuts() {
  even_splits("one row", 1, {3200}, 7);
  even_splits("whole rows", 2, {3200, 0, 7, 3200}, 1, true);
  even_splits("rows of one length", 2, std::vector<std::int32_t>(8, 1000), 4);
  even_splits("nothing stored", 1, {0, 0, 0}, 3);
  std::vector<std::int32_t> one_long(300, 20), any(300);
  one_long[131] = 3200;
  for (std::size_t i = 0; i < any.size(); ++i)
    any[i] = static_cast<std::int32_t>(i * i * 7919 % 3201);
  for (int const splits : {2, 3}) {
    even_splits("a long row among 300", 3, one_long, splits, splits == 3);
    even_splits("rows of any length", 3, any, splits, splits == 2);
  }
  even_splits("a long row among 8", 8, {3200, 1, 2, 3, 4, 5, 6, 7}, 2);
  for (int const page : {16, 32, 100}) {
    even_splits("pages of one row", 1, {3200}, 5, false, page);
    even_splits("pages of a long row among 8", 8, {3200, 90, 200, 300, 400, 500, 600, 700}, 3,
                false, page);
    even_splits("pages of 300 rows of any length", 3, any, 2, true, page);
  }
}

/// A decoding step that is captured once and launched again and again, on a stream of its own:
/// nothing in it waits, and all that changes is read from device memory.
void replays(char const* name) {
  extents const e{2, 2, 40, 32};
  auto const s = filled(kivi<4>{{.residual = 32}}, e, {.append_tokens = 40}, {}, 0, 33, name);
  data::buffer const more(append_bytes(s->plan.layout())), work(settle_bytes(s->plan.layout())),
      scratch(attend_bytes(s->plan.layout(), 4, 1, 2));
  device_scratch const device_more(more.size()), device_work(work.size());
  asked_rows<float> const k({e.sequences, e.kv_heads, 1, e.head_dim}, 34),
      v({e.sequences, e.kv_heads, 1, e.value_width()}, 35);
  request<> x(*s, {.group = 2, .splits = 2, .seed = 36});
  device_scratch const parts(attend_bytes(gpu, s->plan.layout(), 4, 1, 2));
  cudaStream_t stream = nullptr;
  cudaGraph_t captured = nullptr;
  cudaGraphExec_t graph = nullptr;
  check(cudaStreamCreate(&stream) == cudaSuccess, "a stream", name);
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess, "capture",
        name);
  kvslim::cuda const exec{stream};
  passed(append(exec, s->on_gpu, k.on_gpu(), v.on_gpu(), device_more), name);
  passed(settle(exec, s->on_gpu, device_work), name);
  passed(attend(exec, s->on_gpu, x.on_gpu, parts), name);
  check(cudaStreamEndCapture(stream, &captured) == cudaSuccess, "nothing waited", name);
  check(cudaGraphInstantiate(&graph, captured, 0) == cudaSuccess, "a graph", name);
  s->same(name, true);            // nothing ran yet
  for (int i = 0; i < 35; ++i) {  // 32 of them are coded together
    passed(append(cpu{}, s->on_host, k.on_host(), v.on_host(), more), name);
    passed(settle(cpu{}, s->on_host, work), name);
    check(cudaGraphLaunch(graph, stream) == cudaSuccess, "launch", name);
  }
  passed(attend(cpu{}, s->on_host, x.on_host, scratch), name);
  check(cudaStreamSynchronize(stream) == cudaSuccess, "the graph ran", name);
  s->same(name, true);
  check(distance(x.dout.host(), x.out) <= tolerance::attend, "attention within the bound", name);
  cudaGraphExecDestroy(graph);
  cudaGraphDestroy(captured);
  cudaStreamDestroy(stream);
}

/// K is zero but for the last token of a row; V is 0 in its first half, then 1, and 3 at the end.
struct halves_body {
  float *k, *v;
  index_t tokens, dim;
  KVSLIM_HD void operator()(index_t i) const {
    index_t const t = i / dim % tokens;
    bool const last = t == tokens - 1;
    k[i] = last && i % dim == 0 ? 32.0f : 0.0f;
    v[i] = last ? 3.0f : t < tokens / 2 ? 0.0f : 1.0f;
  }
};

/// More than 2^31 elements in K, in V and in what is stored, where the device has memory for them.
void large() {
  char const* const name = "a large cache";
  std::size_t room = 0, all = 0;
  check(cudaMemGetInfo(&room, &all) == cudaSuccess, "cudaMemGetInfo", name);
  extents const e{1, 8, room > (std::size_t{40} << 30) ? (index_t{1} << 21) + 77 : 777, 128};
  auto const count = static_cast<std::size_t>(e.rows() * e.tokens * e.head_dim);
  auto const plan = make_plan(dense<f16>{}, e);
  device<float> const k(count), v(count), out(static_cast<std::size_t>(8 * e.head_dim)), lse(8);
  passed(detail::launch_for_each(gpu, static_cast<index_t>(count),
                                 halves_body{k.get(), v.get(), e.tokens, e.head_dim}),
         name);
  device_scratch const storage(plan.packed_bytes()), scratch(plan.workspace_bytes()),
      parts(attend_bytes(gpu, plan.layout(), 8, 1, 40));
  packed_cache const packed(plan, storage.get(), storage.size(), cuda_space{});
  passed(compress(gpu, plan, dense_cache<cuda_space>(k.get(), v.get(), e), evidence<>{}, packed,
                  scratch),
         name);
  auto const n = static_cast<double>(e.tokens);
  for (float const q0 : {0.0f, 64.0f}) {  // all tokens alike, or the last one alone
    std::vector<float> asked(out.size());
    for (std::size_t h = 0; h < 8; ++h) asked[h * 128] = q0;
    device<float> const q(asked);
    rows_shape const shape{1, 8, 1, e.head_dim};
    passed(
        attend(gpu, packed,
               attend_request<cuda_space>{.q = dense_rows<cuda_space, float const>(q.get(), shape),
                                          .out = dense_rows<cuda_space>(out.get(), shape),
                                          .lse = lse.get(),
                                          .splits = 40},
               parts),
        name);
    synchronized("attend ran", name);
    double const mean = (n - static_cast<double>(e.tokens / 2) + 2.0) / n;
    std::vector<float> const expected(out.size(), q0 == 0.0f ? static_cast<float>(mean) : 3.0f);
    check(distance(out.host(), expected) <= tolerance::attend, "every token is read", name);
    if (q0 == 0.0f)
      check(log_distance(lse.host(), std::vector<float>(8, static_cast<float>(std::log(n)))) <=
                tolerance::attend,
            "log-sum-exp", name);
  }
}

/// The same pages on both backends, while tokens come, are coded and are taken back.
template <class Policy>
void reads_pages(char const* name, Policy const& policy, extents const& e, index_t group,
                 index_t q_tokens = 1, traits has = {}) {
  auto const s = filled(policy, e, {.append_tokens = 30, .draft_tokens = 6, .positions = true}, has,
                        3, 90, name);
  auto const& plan = s->plan;
  index_t const heads = e.kv_heads * group, most = most_spans(plan), rows = e.rows();
  data::buffer const updates(update_index_bytes(plan)),
      choices(select_pages_bytes(plan, heads, q_tokens)), more(append_bytes(plan.layout())),
      work(settle_bytes(plan.layout()));
  device_scratch const memory(choices.size()), device_more(more.size()), device_work(work.size());
  std::vector<std::int32_t> begin_end(static_cast<std::size_t>(rows * most * 2), -7),
      counts(static_cast<std::size_t>(rows), -7);
  device<std::int32_t> const dbegin_end(begin_end), dcounts(counts);
  page_spans const spans{begin_end.data(), counts.data(), most},
      dspans{dbegin_end.get(), dcounts.get(), most};
  for (unsigned i = 0; i < 6; ++i) {
    passed(update_index(cpu{}, plan, s->on_host, updates), name);
    passed(update_index(gpu, plan, s->on_gpu), name);
    synchronized("update_index ran", name);
    s->same(name, true);
    request<> x(*s, {.group = group, .tokens = q_tokens, .seed = 50 + i});
    passed(select_pages(cpu{}, plan, s->on_host, x.on_host, spans, choices), name);
    passed(select_pages(gpu, plan, s->on_gpu, x.on_gpu, dspans, memory), name);
    synchronized("select_pages ran", name);
    check(dcounts.host() == counts && dbegin_end.host() == begin_end, "the same pages", name);
    x.on_host.visible = spans;
    x.on_gpu.visible = dspans;
    data::buffer const scratch(attend_bytes(plan.layout(), heads, q_tokens));
    passed(attend(cpu{}, s->on_host, x.on_host, scratch), name);
    passed(attend(gpu, s->on_gpu, x.on_gpu), name);
    synchronized("attend ran", name);
    check(distance(x.dout.host(), x.out) <= tolerance::attend, "attention over pages", name);
    asked_rows<float> const k({e.sequences, e.kv_heads, 4, e.head_dim}, 60 + i),
        v({e.sequences, e.kv_heads, 4, e.value_width()}, 70 + i);
    passed(append(cpu{}, s->on_host, k.on_host(), v.on_host(), more), name);
    passed(append(gpu, s->on_gpu, k.on_gpu(), v.on_gpu(), device_more), name);
    if (i == 0) {  // newer than its summaries: the device says so
      passed(select_pages(gpu, plan, s->on_gpu, x.on_gpu, dspans, memory), name);
      synchronized("select_pages ran", name);
      check(s->row(0).failed == static_cast<int>(errc::corrupt) && dcounts.host()[0] == 0,
            "an old index", name);
      for (index_t r = 0; r < rows; ++r) s->on_host.raw_row(r).failed = s->row(r).failed;
    }
    if (i % 2 == 1) {
      passed(rewind(s->on_host, 3), name);
      passed(rewind(gpu, s->on_gpu, 3), name);
    }
    passed(settle(cpu{}, s->on_host, work), name);
    passed(settle(gpu, s->on_gpu, device_work), name);
  }
}

}  // namespace

int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("skipped: no CUDA device\n");
    return 77;
  }
  extents const e{3, 2, 50, 32};
  leaves_and_joins("f16", dense<f16>{}, e);
  leaves_and_joins("kivi 4", kivi<4>{{.residual = 32}}, e);
  leaves_and_joins("int 8, pins and biases", int_per_token<8>{{.residual = 6}}, e,
                   {.valid = true, .bias = true});
  leaves_and_joins("wide values", int_per_token<4>{}, {2, 3, 41, 32, 48});
  many_rows();
  cuts();
  replays("a graph");
  large();
  segments({.group = 2}, "segments");
  segments({.group = 3, .tokens = 2, .splits = 2, .window = 40, .positions = true, .sinks = true},
           "segments, two queries");
  reads_pages("pages of f16", pipeline{dense<f16>{}, quest<>{{.budget = 64}}}, {2, 2, 300, 32}, 2);
  reads_pages("pages of kivi 4",
              pipeline{kivi<4>{{.residual = 32}}, quest<bf16>{{.budget = 50, .page = 10}}},
              {3, 1, 150, 64}, 4, 2, {.lengths = true});
  reads_pages("pages of int 8",
              pipeline{int_per_token<8>{},
                       quest<float>{{.budget = 6, .page = 2, .rule = quest_rule::evaluation}}},
              {2, 2, 90, 32}, 1, 1, {.lengths = true, .positions = true, .valid = true});
  reads_pages("landmarks",
              pipeline{int_per_token<8>{},
                       landmarks<float>{{.budget = 40, .page = 10, .local = 2, .outliers = 3}}},
              {2, 2, 250, 32}, 3, 2, {.lengths = true});
  reads_pages("a page of everything", pipeline{dense<f16>{}, quest<>{{.budget = 0}}}, {1, 1, 9, 16},
              1);
  std::printf(failures == 0 ? "both backends agree\n" : "%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
