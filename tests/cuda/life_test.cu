// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// A cache's life on both backends: appended, attended, observed, evicted, settled, rewound,
// recompressed and decoded, with the same slots and bytes at every stop. Exits 77 (skipped) where
// there is no GPU.

#include "both.hpp"
#include "linked.hpp"
#include "own_codecs.hpp"
#include "support/policies.hpp"

#include <memory>

using namespace on_device;
using namespace kvslim;

namespace {

/// A stored cache and all that decoding with it needs.
template <class Plan>
struct living {
  stored<Plan> s;
  data::buffer append_memory, settle_memory, victim_memory;
  device_scratch append_scratch, settle_scratch, victim_scratch;
  std::vector<std::int32_t> victims;
  device<std::int32_t> device_victims;
  unsigned seed = 100;

  explicit living(Plan const& plan)
      : s(plan),
        append_memory(append_bytes(plan.layout())),
        settle_memory(settle_bytes(plan.layout())),
        victim_memory(victim_size(plan)),
        append_scratch(append_memory.size()),
        settle_scratch(settle_memory.size()),
        victim_scratch(victim_memory.size()),
        victims(static_cast<std::size_t>(plan.extents().rows()), -1),
        device_victims(victims) {}

  static std::size_t victim_size(Plan const& plan) {
    if constexpr (Plan::has_quota) return victim_bytes(plan);
    return static_cast<std::size_t>(plan.extents().tokens - plan.extents().tokens);
  }
  void fill(char const* name, traits has = {}) {
    auto const& e = s.plan.extents();
    cells const c(e, has, 31);
    asked_rows<float> const q({e.sequences, e.kv_heads * 2, 8, e.head_dim}, 32);
    s.compress(c, evidence{window_queries<>{q.on_host()}},
               evidence{window_queries<cuda_space>{q.on_gpu()}}, name);
  }
  /// n tokens for the step's rows, on both backends; the host's answer.
  status append(index_t n, char const* name, step host = {}, step device = {}) {
    auto const& e = s.plan.extents();
    index_t const sequences =
        host.sequences < 0 ? e.sequences - host.first_sequence : host.sequences;
    asked_rows<f16> const k({sequences, e.kv_heads, n, e.head_dim}, ++seed);
    asked_rows<float> const v({sequences, e.kv_heads, n, e.value_width()}, ++seed);
    passed(kvslim::append(gpu, s.on_gpu, k.on_gpu(), v.on_gpu(), append_scratch, device), name);
    synchronized("append ran", name);
    return kvslim::append(cpu{}, s.on_host, k.on_host(), v.on_host(), append_memory, host);
  }
  void settle(char const* name, step host = {}, step device = {}) {
    passed(kvslim::settle(cpu{}, s.on_host, settle_memory, host), name);
    passed(kvslim::settle(gpu, s.on_gpu, settle_scratch, device), name);
    synchronized("settle ran", name);
  }
  /// Attention whose logits the scorer observes. The device's scorer sees the host's logits, so
  /// that rounding cannot make the two choose different victims.
  void observe(char const* name, bool first) {
    request<> x(s, {.group = 2, .logits = true, .seed = ++seed});
    data::buffer const scratch(attend_bytes(s.plan.layout(), x.q.shape.heads));
    passed(attend(cpu{}, s.on_host, x.on_host, scratch), name);
    passed(attend(gpu, s.on_gpu, x.on_gpu), name);
    synchronized("attend ran", name);
    check(distance(x.dout.host(), x.out) <= tolerance::attend, "attention within the bound", name);
    if (first)
      check(log_distance(x.dlogits.host(), x.logits, 10.0) <= tolerance::attend, "logits", name);
    device<float> const logits(x.logits), lse(x.lse);
    x.on_gpu.logits = logits.get();
    x.on_gpu.lse = lse.get();
    auto const& scorer = s.plan.template stage<scorer_tag>();
    passed(kvslim::observe(cpu{}, scorer, s.on_host, x.on_host), name);
    passed(kvslim::observe(gpu, scorer, s.on_gpu, x.on_gpu), name);
    synchronized("observe ran", name);
  }
  void evict(char const* name) {
    passed(choose_victims(cpu{}, s.plan, s.on_host, victims.data(), victim_memory), name);
    passed(choose_victims(gpu, s.plan, s.on_gpu, device_victims.get(), victim_scratch), name);
    synchronized("choose_victims ran", name);
    check(device_victims.host() == victims, "the same victims", name);
    passed(kvslim::evict(cpu{}, s.on_host, victims.data()), name);
    passed(kvslim::evict(gpu, s.on_gpu, device_victims.get()), name);
  }
};
template <class Policy>
auto make_living(Policy const& policy, extents const& e, plan_options const& o) {
  using plan = std::remove_const_t<decltype(make_plan(policy, e, o))>;
  return std::make_unique<living<plan>>(make_plan(policy, e, o));
}

/// Columns in both memories: sums within the bound of rounding, everything else equal.
template <class Stored>
void same_columns(Stored const& s, char const* name) {
  auto memory = s.device_storage.host();
  typename Stored::host_cache const copy(s.plan.layout(), memory.data(), memory.size());
  std::vector<float> sums, expected;
  bool equal = true;
  for (index_t r = 0; r < s.plan.extents().rows(); ++r) {
    auto const ledgers = [&](auto const& packed) {
      return static_cast<policies::ledger const*>(static_cast<void const*>(packed.columns(r)));
    };
    for (index_t i = 0; i < s.on_host.raw_row(r).slots; ++i) {
      if (s.on_host.positions(r)[i] == empty_slot) continue;
      policies::ledger const a = ledgers(s.on_host)[i], b = ledgers(copy)[i];
      equal = equal && a.born == b.born && a.looks == b.looks;
      expected.push_back(a.sum);
      sums.push_back(b.sum);
    }
  }
  check(equal, "the same births and looks", name);
  check(distance(sums, expected) <= tolerance::accumulated, "observed masses", name);
}

/// 200 tokens at a fixed budget, with a scorer that observes.
template <class Policy>
void fixed_budget(char const* name, Policy const& policy, extents const& e, index_t room,
                  traits has = {}) {
  auto const x = make_living(policy, e, {.append_tokens = room, .evicts = true});
  x->fill(name, has);
  x->s.same(name);
  for (int i = 0; i < 200; ++i) {
    passed(x->append(1, name), name);
    x->observe(name, i == 0);
    x->evict(name);
    x->settle(name);
    if (i % 40 != 39 && failures == 0) continue;
    x->s.same(name);
    same_columns(x->s, name);
    if (failures > 0) return;
  }
  std::printf("  %s: %d slots, %d holes\n", name, x->s.on_host.raw_row(0).slots,
              x->s.on_host.raw_row(0).holes);
}

/// Tokens go whose score, which does not change, is below a bound once they left the window.
void above_a_bound() {
  char const* const name = "above a bound";
  auto const x = make_living(pipeline{knorm{}, at_least{{.least = -5.7f, .recent = 9}}},
                             {2, 2, 90, 32}, {.append_tokens = 70, .evicts = true});
  x->fill(name, {.lengths = true, .valid = true, .per_head = true});
  for (int i = 0; i < 60; ++i) {
    passed(x->append(1, name), name);
    x->evict(name);
    x->settle(name);
    if (i % 20 == 19) x->s.same(name);
  }
}

/// A streaming head gives up the token that leaves its window, a retrieval head none: the same
/// table in either memory.
void classes_of_heads() {
  char const* const name = "classes of heads";
  std::vector<std::uint8_t> const classes{0, 1, 1, 0};
  device<std::uint8_t> const memory(classes);
  extents const e{2, 2, 90, 32};
  plan_options const options{.append_tokens = 40, .evicts = true};
  auto const policy = [&]<class Space>(Space, std::uint8_t const* at) {
    return pipeline{streaming_llm{},
                    head_classes<Space>{
                        {.retrieval = at, .layers = 2, .kv_heads = 2, .sinks = 3, .recent = 20}}};
  };
  auto const x = make_living(policy(host_space{}, classes.data()), e, options);
  auto const on_gpu = make_plan(policy(cuda_space{}, memory.get()), e, options);
  cells const c(e, {}, 31);
  x->s.compress(c, evidence<>{}, evidence<>{}, name, on_gpu);
  for (int i = 0; i < 40; ++i) {
    passed(x->append(1, name), name);
    passed(choose_victims(cpu{}, x->s.plan, x->s.on_host, x->victims.data(), x->victim_memory),
           name);
    passed(choose_victims(gpu, on_gpu, x->s.on_gpu, x->device_victims.get(), x->victim_scratch),
           name);
    synchronized("choose_victims ran", name);
    check(x->device_victims.host() == x->victims, "the same victims", name);
    check(x->victims[0] >= 0 && x->victims[1] == -1, "only streaming heads give up", name);
    passed(kvslim::evict(cpu{}, x->s.on_host, x->victims.data()), name);
    passed(kvslim::evict(gpu, x->s.on_gpu, x->device_victims.get()), name);
    x->settle(name);
  }
  x->s.same(name);
}

/// Tokens whose attention varies may not go.
void gated() {
  char const* const name = "a gate";
  auto const x =
      make_living(pipeline{roco{{.budget = 70, .last = 10}}, top_k{{.budget = 70, .recent = 10}}},
                  {2, 2, 130, 32}, {.append_tokens = 3, .evicts = true});
  x->fill(name, {.valid = true});
  for (int i = 0; i < 60; ++i) {
    passed(x->append(1, name), name);
    x->observe(name, false);
    x->evict(name);
    x->settle(name);
    if (i % 20 == 19) x->s.same(name);
  }
}

/// Drafts of five tokens, three of which are taken back, across flushes; then too many are asked
/// for, and the row stays as it is.
template <class Policy>
void drafts(char const* name, Policy const& policy, plan_options o) {
  extents const e{2, 2, 100, 32};
  o.append_tokens = 150;
  o.draft_tokens = 6;
  auto const x = make_living(policy, e, o);
  x->fill(name);
  for (int i = 0; i < 60; ++i) {
    passed(x->append(5, name), name);
    if (i % 10 == 0) attend_both(x->s, {.group = 2, .tokens = 5}, name);
    passed(rewind(x->s.on_host, 3), name);
    passed(rewind(gpu, x->s.on_gpu, 3), name);
    x->settle(name);
    if (i % 20 == 19) x->s.same(name, true);
  }
  auto const before = x->s.device_storage.host();
  bool const possible = rewind(x->s.on_host, 100).ok();
  passed(rewind(gpu, x->s.on_gpu, 100), name);
  if (possible) return x->s.same(name);
  check(x->s.row(0).failed == static_cast<int>(errc::unsupported), "the device says so", name);
  check(x->s.row(1).slots == x->s.on_host.raw_row(1).slots, "the row is as it was", name);
}

/// Rows that share blocks settle in two steps.
void shared_blocks() {
  char const* const name = "rows that share blocks";
  auto const x =
      make_living(paired_sequences{}, {4, 2, 30, 16}, {.append_tokens = 20, .draft_tokens = 3});
  x->fill(name);
  for (int i = 0; i < 9; ++i) {
    passed(x->append(2, name), name);
    x->settle(name);
    x->s.same(name, true);
  }
}

/// A batch of which some sequences decode, in two steps of the cache.
void some_sequences() {
  char const* const name = "some sequences";
  extents const e{4, 2, 90, 32};
  auto const x =
      make_living(kivi<4>{{.residual = 32}}, e, {.append_tokens = 70, .positions = true});
  x->fill(name, {.lengths = true, .per_head = true});
  for (int i = 0; i < 60; ++i) {
    std::vector<std::uint8_t> active{std::uint8_t{1}, static_cast<std::uint8_t>(i % 3 == 0),
                                     static_cast<std::uint8_t>(i % 2)};
    device<std::uint8_t> const on_gpu(active);
    step const host{1, 3, active.data()}, device{1, 3, on_gpu.get()};
    passed(x->append(1, name, host, device), name);
    x->settle(name, host, device);
    if (i % 20 == 19) x->s.same(name, true);
  }
}

/// What only the device can see: full rows and tails, NaN, victims that are none.
void says_failed() {
  char const* const name = "failures";
  extents const e{1, 2, 40, 32};
  auto const x = make_living(pipeline{streaming_llm{}, top_k{{.budget = 40}}, int_per_token<8>{}},
                             e, {.append_tokens = 3, .draft_tokens = 2, .evicts = true});
  auto const failed = [&](index_t r) { return static_cast<errc>(x->s.row(r).failed); };
  x->fill(name);
  check(failed(0) == errc::ok, "no failure", name);
  check(x->append(3, name).code == errc::capacity_exceeded, "the tail is full", name);
  check(failed(0) == errc::capacity_exceeded && x->s.row(0).slots == 40, "it stays", name);

  x->fill(name);
  for (int i = 0; i < 3; ++i) {
    passed(x->append(1, name), name);
    x->settle(name);
  }
  check(x->append(1, name).code == errc::capacity_exceeded, "the row is full", name);
  check(failed(1) == errc::capacity_exceeded && x->s.row(1).slots == 43, "it stays", name);

  x->fill(name);
  std::vector<float> k(64, 1.0f);
  k[40] = NAN;
  device<float> const bad(k);
  auto const rows = dense_rows<cuda_space, float const>(bad.get(), {1, 2, 1, 32});
  passed(append(gpu, x->s.on_gpu, rows, rows, x->append_scratch), name);
  check(failed(0) == errc::ok && x->s.row(0).slots == 41, "one row takes it", name);
  check(failed(1) == errc::non_finite && x->s.row(1).slots == 40, "one does not", name);

  x->fill(name);
  device<std::int32_t> const none(std::vector<std::int32_t>{40, 5});
  passed(evict(gpu, x->s.on_gpu, none.get()), name);
  check(failed(0) == errc::invalid_shape && x->s.row(0).holes == 0, "no such slot", name);
  check(failed(1) == errc::ok && x->s.row(1).holes == 1, "a slot", name);
  passed(rewind(gpu, x->s.on_gpu, 41), name);
  check(failed(1) == errc::invalid_option && x->s.row(1).holes == 1, "too far", name);
}

/// Keep sets that are an engine's own: good ones, and some that cannot be encoded.
void own_keep_sets() {
  char const* const name = "keep sets of an engine";
  extents const e{1, 3, 50, 32};
  cells const c(e, {.positions = true, .valid = true, .ascending = true}, 77);
  stored s(make_plan(int_per_token<8>{}, e, {.positions = true}));
  std::vector<std::int32_t> held;
  for (std::int32_t i = 0; i < 50; ++i)
    if (c.valid[static_cast<std::size_t>(i)] != 0) held.push_back(i);
  auto const n = static_cast<std::int64_t>(held.size());
  std::vector<std::int32_t> lists;
  for (int r = 0; r < 3; ++r) lists.insert(lists.end(), held.begin(), held.end());
  std::vector<std::int64_t> begins{0, n, 2 * n, 3 * n};
  data::buffer const scratch(s.plan.encode_bytes());
  device_scratch const memory(s.plan.encode_bytes());
  auto const encode_both = [&](bool host) {
    device<std::int64_t> const dbegins(begins);
    device<std::int32_t> const dlists(lists);
    keep_set const a{.begins = begins.data(), .cells = lists.data()};
    keep_set const b{.begins = dbegins.get(), .cells = dlists.get()};
    if (host) passed(encode(cpu{}, s.plan, c.view<host_space>(), a, s.on_host, scratch), name);
    passed(encode(gpu, s.plan, c.view<cuda_space>(), b, s.on_gpu, memory), name);
    synchronized("encode ran", name);
  };
  auto const failed = [&](index_t r) { return static_cast<errc>(s.row(r).failed); };
  encode_both(true);
  s.same(name, true);
  lists[static_cast<std::size_t>(n) + 3] = 50;  // beyond the row
  lists[static_cast<std::size_t>(2 * n) + 3] = lists[static_cast<std::size_t>(2 * n) + 2];
  encode_both(false);
  check(failed(0) == errc::ok && s.row(0).slots == n, "the first row is well", name);
  check(failed(1) == errc::invalid_shape && s.row(1).slots == 0, "a cell out of range", name);
  check(failed(2) == errc::invalid_shape && s.row(2).slots == 0, "a cell twice", name);
  begins = {0, n, n - 1, 3 * n};
  encode_both(false);
  check(failed(1) == errc::invalid_shape && failed(0) == errc::ok, "begins that descend", name);
  // More than was planned for: rows that do not fit are left without room.
  auto const small =
      make_plan(pipeline{given_scores{}, top_k{{.budget = 8}}, int_per_token<8>{}}, e);
  stored t(small);
  begins = {0, n, 2 * n, 3 * n};
  device<std::int64_t> const dbegins(begins);
  std::copy(held.begin(), held.end(), lists.begin() + n);
  std::copy(held.begin(), held.end(), lists.begin() + 2 * n);
  device<std::int32_t> const dlists(lists);
  device_scratch const more(small.encode_bytes());
  passed(encode(gpu, small, c.view<cuda_space>(), {.begins = dbegins.get(), .cells = dlists.get()},
                t.on_gpu, more),
         name);
  check(t.row(0).failed == 0 && t.row(0).slots == n, "what fits", name);
  check(t.row(2).failed == static_cast<int>(errc::buffer_too_small) && t.row(2).capacity == 0,
        "what does not", name);
  // Values that no type holds are said, not hidden.
  std::vector<float> k(static_cast<std::size_t>(3 * 50 * 32), 1.0f);
  k[50 * 32 + 7] = INFINITY;
  device<float> const dk(k);
  auto view = dense_cache<cuda_space, float const>(dk.get(), dk.get(), e);
  stored u(make_plan(int_per_token<8>{}, e));
  device_scratch const all(u.plan.workspace_bytes());
  passed(compress(gpu, u.plan, view, evidence<>{}, u.on_gpu, all), name);
  check(u.row(1).failed == static_cast<int>(errc::non_finite) && u.row(0).failed == 0, "infinity",
        name);
}

/// What a merger remembers of rows goes from one cache to the next.
void remembers() {
  char const* const name = "a row's memory";
  auto const policy =
      pipeline{streaming_llm{}, top_k{{.budget = 40}}, d2o{{.running = true}}, dense<float>{}};
  plan_options const options{.append_tokens = 12, .draft_tokens = 12};
  auto const x = make_living(policy, {2, 2, 120, 32}, options);
  x->fill(name);
  for (int i = 0; i < 12; ++i) passed(x->append(1, name), name);
  stored to(make_plan(policy, {2, 2, 52, 32}, options));
  data::buffer const scratch(to.plan.workspace_bytes());
  device_scratch const memory(to.plan.workspace_bytes());
  passed(recompress(cpu{}, to.plan, x->s.on_host, to.on_host, scratch), name);
  passed(recompress(gpu, to.plan, x->s.on_gpu, to.on_gpu, memory), name);
  synchronized("recompress ran", name);
  to.same(name, false, false);
  auto bytes = to.device_storage.host();
  decltype(to.on_host) const copy(to.plan.layout(), bytes.data(), bytes.size());
  for (index_t r = 0; r < 4; ++r) {
    ops::least_likeness mine, theirs;
    void const *const here = to.on_host.row_words(r), *const there = copy.row_words(r);
    std::memcpy(&mine, here, sizeof mine);
    std::memcpy(&theirs, there, sizeof theirs);
    check(mine.times == 2 && theirs.times == 2, "two compressions", name);
    check(std::abs(mine.least - theirs.least) <= tolerance::accumulated, "a threshold", name);
  }
}

/// A stored cache under other plans, and back as plain rows.
void recompresses() {
  char const* const name = "recompress";
  extents const e{2, 2, 120, 32};
  auto const x = make_living(pipeline{policies::heavy{}, top_k{{.budget = 60, .recent = 20}},
                                      int_per_token<8>{{.residual = 16}}},
                             e, {.append_tokens = 8, .evicts = true});
  x->fill(name);
  for (int i = 0; i < 30; ++i) {
    passed(x->append(1, name), name);
    x->observe(name, false);
    x->evict(name);
    x->settle(name);
  }
  auto const into = [&](auto const& policy, bool evicts, bool bytes, bool values = true) {
    stored to(make_plan(policy, {2, 2, 68, 32},
                        {.append_tokens = 4, .evicts = evicts, .positions = true}));
    data::buffer const scratch(to.plan.workspace_bytes());
    device_scratch const memory(to.plan.workspace_bytes());
    passed(recompress(cpu{}, to.plan, x->s.on_host, to.on_host, scratch), name);
    passed(recompress(gpu, to.plan, x->s.on_gpu, to.on_gpu, memory), name);
    synchronized("recompress ran", name);
    to.same(name, bytes, values);
  };
  into(pipeline{policies::heavy{}, top_k{{.budget = 30, .recent = 8}}, kivi<4>{{.residual = 32}}},
       true, false);
  into(dense<f16>{}, false, true);
  into(pipeline{streaming_llm{}, top_k{{.budget = 40}}, rerotate{}, int_per_token<4>{}}, false,
       false, false);

  index_t const n = 68;
  auto const all = static_cast<std::size_t>(4 * n);
  std::vector<f16> k(all * 32), v(k);
  std::vector<std::int32_t> positions(all, -7);
  device<f16> const dk(k), dv(v);
  device<std::int32_t> const dpositions(positions);
  rows_shape const shape{2, 2, n, 32};
  data::buffer const scratch(decode_bytes(x->s.plan.layout(), n));
  device_scratch const memory(scratch.size());
  passed(decode(cpu{}, x->s.on_host, dense_rows(k.data(), shape), dense_rows(v.data(), shape),
                positions.data(), scratch),
         name);
  passed(decode(gpu, x->s.on_gpu, dense_rows<cuda_space>(dk.get(), shape),
                dense_rows<cuda_space>(dv.get(), shape), dpositions.get(), memory),
         name);
  synchronized("decode ran", name);
  check(dpositions.host() == positions, "positions", name);
  check(same(dk.host(), k) && same(dv.host(), v), "rows", name);
}

}  // namespace

int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("skipped: no CUDA device\n");
    return 77;
  }
  top_k const keep{{.budget = 70, .sinks = 2, .recent = 30}};
  extents const e{2, 2, 130, 32};
  fixed_budget("heavy hitters, int 8",
               pipeline{policies::heavy{}, keep, int_per_token<8>{{.residual = 16}}}, e, 3);
  fixed_budget("heavy hitters, f16", pipeline{policies::heavy{}, keep}, e, 3);
  fixed_budget("heavy hitters, pins", pipeline{policies::heavy{}, keep}, e, 3, {.valid = true});
  fixed_budget("heavy hitters, kivi 4",
               pipeline{policies::heavy{}, keep, kivi<4>{{.residual = 32}}}, e, 210);
  above_a_bound();
  classes_of_heads();
  gated();
  drafts("drafts, int 8", int_per_token<8>{}, {});
  drafts("drafts, f16, stored positions", dense<f16>{}, {.positions = true});
  drafts("drafts, kivi 4", kivi<4>{{.residual = 32}}, {});
  shared_blocks();
  some_sequences();
  says_failed();
  own_keep_sets();
  recompresses();
  remembers();
  two_units();
  std::printf(failures == 0 ? "both backends agree\n" : "%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
