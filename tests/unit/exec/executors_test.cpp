// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Threads are the caller's: a pool, threads that all make the same call, or none; the bytes are the
// same. Built once more with the thread sanitizer, which must find nothing.

#include "support/catch.hpp"
#include "support/life.hpp"
#include "support/oracle.hpp"
#include "support/policies.hpp"

#include <condition_variable>
#include <mutex>
#include <thread>

using namespace kvslim;

namespace {

/// A barrier as an engine has one.
class meeting {
 public:
  explicit meeting(int threads) : threads_(threads) {}
  static void wait(void* self) { static_cast<meeting*>(self)->wait(); }

 private:
  void wait() {
    std::unique_lock lock(mutex_);
    int const round = round_;
    if (++waiting_ == threads_) {
      waiting_ = 0;
      ++round_;
      all_here_.notify_all();
    } else {
      all_here_.wait(lock, [&] { return round_ != round; });
    }
  }
  std::mutex mutex_;
  std::condition_variable all_here_;
  int threads_, waiting_ = 0, round_ = 0;
};

/// Iterations from the last to the first.
struct reversed_pool {
  template <class Body>
  void for_each(index_t count, Body const& body) {
    for (index_t i = count; i-- > 0;) body(i);
  }
};

/// Threads that take iterations in turns.
struct pool {
  int threads;
  template <class Body>
  void for_each(index_t count, Body const& body) {
    std::vector<std::thread> team;
    for (int t = 0; t < threads; ++t)
      team.emplace_back([&, t] {
        for (index_t i = t; i < count; i += threads) body(i);
      });
    for (auto& thread : team) thread.join();
  }
};

data::shape const shape{.sequences = 2, .kv_heads = 3, .group = 2, .tokens = 60, .head_dim = 32};

/// A prompt and ten tokens of a generation, every verb, by one executor.
struct generation {
  pipeline<policies::heavy, top_k, int_per_token<8>> policy{
      policies::heavy{}, top_k{{.budget = 40, .recent = 5}}, int_per_token<8>{{.residual = 6}}};
  data::cache c{shape};
  data::room<decltype(policy)> room{policy, shape.extents(), {.append_tokens = 3, .evicts = true}};
  data::buffer tokens{append_bytes(room.packed.layout())},
      coding{settle_bytes(room.packed.layout())}, choosing{victim_bytes(room.plan)},
      attending{attend_bytes(room.packed.layout(), 6, 1, 3)};
  std::vector<std::int32_t> victims = std::vector<std::int32_t>(6, -7);
  std::vector<float> out = std::vector<float>(12 * 32), lse = std::vector<float>(12),
                     logits = std::vector<float>(12 * 60);

  template <class Exec>
  status run(Exec const& exec) {
    evidence const ev{window_queries{c.queries(8)}};
    if (auto const s = compress(exec, room.plan, c.view(), ev, room.packed, room.scratch); !s)
      return s;
    for (index_t t = 0; t < 10; ++t) {
      rows_view<float const> k{c.k.data() + t * 32, 2, 3, 1, 32, {3 * 60 * 32, 60 * 32, 32, 1}};
      if (auto const s = append(exec, room.packed, k, k, tokens); !s) return s;
      attend_request<> a{.q = c.queries(1),
                         .out = dense_rows(out.data(), {2, 6, 1, 32}),
                         .lse = lse.data(),
                         .logits = logits.data(),
                         .logits_stride = 60,
                         .splits = 3};
      if (auto const s = attend(exec, room.packed, a, attending); !s) return s;
      if (auto const s = observe(exec, policies::heavy{}, room.packed, a); !s) return s;
      if (auto const s = choose_victims(exec, room.plan, room.packed, victims.data(), choosing); !s)
        return s;
      if (auto const s = evict(exec, room.packed, victims.data()); !s) return s;
      if (auto const s = settle(exec, room.packed, coding); !s) return s;
    }
    return {};
  }
  void same_as(generation const& other) const {
    CHECK(data::bytes_of(room.packed) == data::bytes_of(other.room.packed));
    CHECK(out == other.out);
    CHECK(lse == other.lse);
    CHECK(room.intact());
    for (auto const* buffer : {&tokens, &coding, &choosing, &attending}) CHECK(buffer->intact());
  }
};

/// Every one of `threads` makes the call `body(part)`.
template <class Body>
void in_parts(int threads, Body const& body) {
  meeting barrier(threads);
  std::vector<std::thread> team;
  for (int t = 0; t < threads; ++t)
    team.emplace_back([&, t] { body(cpu_part{t, threads, meeting::wait, &barrier}); });
  for (auto& thread : team) thread.join();
}

}  // namespace

TEST_CASE("an engine's pool gives the serial result", "[exec]") {
  generation serial;
  REQUIRE(serial.run(cpu{}).ok());
  generation backwards;
  reversed_pool reversed;
  REQUIRE(backwards.run(cpu_with{&reversed}).ok());
  backwards.same_as(serial);
  for (int threads : {1, 4}) {
    generation other;
    pool workers{threads};
    REQUIRE(other.run(cpu_with{&workers}).ok());
    other.same_as(serial);
  }
}

TEST_CASE("threads that make the same call give the serial result", "[exec]") {
  generation serial;
  REQUIRE(serial.run(cpu{}).ok());
  generation alone;
  REQUIRE(alone.run(cpu_part{}).ok());
  alone.same_as(serial);
  for (int threads : {2, 3, 7}) {
    generation other;
    std::vector<status> results(static_cast<std::size_t>(threads));
    in_parts(threads, [&](cpu_part const& part) {
      results[static_cast<std::size_t>(part.part)] = other.run(part);
    });
    for (auto const& s : results) CHECK(s.ok());
    other.same_as(serial);
  }
}

TEST_CASE("threads that make the same refused call are told the same", "[exec]") {
  generation one;
  one.c.k[1000] = std::nanf("");
  status results[3];
  in_parts(3, [&](cpu_part const& part) { results[part.part] = one.run(part); });
  for (auto const& s : results) CHECK(s.code == errc::non_finite);
  CHECK(one.room.storage.untouched());
}

TEST_CASE("recompress, decode and compact in parts", "[exec]") {
  data::cache const c(shape);
  data::compressed const from(dense<f16>{}, c.view());
  auto const run = [&](auto const& each) {
    data::room const to(pipeline{knorm{}, top_k{{.budget = 30}}, kivi<4>{{.residual = 32}}},
                        shape.extents(), {});
    std::vector<float> k(c.k.size()), v(c.v.size());
    data::buffer scratch(decode_bytes(to.packed.layout(), 60));
    each([&](auto const& exec) {
      auto const first = recompress(exec, to.plan, from.packed, to.packed, to.scratch);
      auto const second = decode(exec, to.packed, dense_rows(k.data(), {2, 3, 60, 32}),
                                 dense_rows(v.data(), {2, 3, 60, 32}), nullptr, scratch);
      return first.ok() && second.ok();
    });
    return std::tuple{data::bytes_of(to.packed), k, v};
  };
  auto const serial = run([](auto const& call) { CHECK(call(cpu{})); });
  auto const parts = run([](auto const& call) {
    bool good[4] = {};
    in_parts(4, [&](cpu_part const& part) { good[part.part] = call(part); });
    CHECK((good[0] && good[1] && good[2] && good[3]));
  });
  CHECK(serial == parts);
}
