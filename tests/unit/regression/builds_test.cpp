// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Threads of engines have small stacks: what a call needs of one.

#include "support/catch.hpp"
#include "support/data.hpp"
#include "support/paths.hpp"

#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

#include <pthread.h>

#include <functional>

using namespace kvslim;

namespace {

/// Bytes of stack that a thread touches when it calls f.
std::size_t stack_of(std::function<void()> const& f) {
  constexpr std::size_t size = std::size_t{1} << 18;
  auto* const memory = new (std::align_val_t{4096}) unsigned char[size];
  std::fill(memory, memory + size, static_cast<unsigned char>(0xa5));
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  REQUIRE(pthread_attr_setstack(&attributes, memory, size) == 0);
  pthread_t thread;
  auto const run = [](void* call) -> void* {
    (*static_cast<std::function<void()> const*>(call))();
    return nullptr;
  };
  REQUIRE(pthread_create(&thread, &attributes, run, const_cast<std::function<void()>*>(&f)) == 0);
  pthread_join(thread, nullptr);
  pthread_attr_destroy(&attributes);
  std::size_t untouched = 0;
  while (untouched < size && memory[untouched] == 0xa5) ++untouched;
  ::operator delete[](memory, std::align_val_t{4096});
  return size - untouched;
}

/// What f needs beyond a thread that does nothing.
std::size_t needs(std::function<void()> const& f) {
  std::size_t const nothing = stack_of([] {}), all = stack_of(f);
  return all > nothing ? all - nothing : 0;
}

// Without optimization every temporary has a place of its own.
#if defined(__OPTIMIZE__)
constexpr std::size_t most = 8192;
#else
constexpr std::size_t most = 3 * 8192;
#endif

}  // namespace

TEMPLATE_TEST_CASE("attend with scratch needs at most 8 KiB of stack",
                   "[regression][builds][attend]", dense<f16>, kivi<2>, int_per_token<8>) {
  index_t const dim = GENERATE(32, 128, 256), group = 8;
  data::cache const logical({1, 1, group, 300, dim});
  data::compressed const c(TestType{}, logical.view(), {}, {.append_tokens = 4});
  REQUIRE(c.result.ok());
  std::vector<float> out(static_cast<std::size_t>(group * dim)),
      lse(static_cast<std::size_t>(group));
  attend_request<> const a{.q = logical.queries(1),
                           .out = dense_rows(out.data(), {1, group, 1, dim}),
                           .lse = lse.data()};
  std::vector<std::byte> scratch(attend_bytes(c.plan.layout(), group));
  data::on_each_path([&](isa::path path) {
    bool ok = true;
    std::size_t const bare = needs([&] { ok = attend(cpu{}, c.packed, a).ok() && ok; });
    std::size_t const roomy = needs([&] { ok = attend(cpu{}, c.packed, a, scratch).ok() && ok; });
    CHECK(ok);
    // What it works in when it is given nothing; AVX2 has no other way to read codes than by
    // digits.
    CHECK(bare <= most + 6144 + (path == isa::path::avx2 ? 6656 : 0));
    CHECK(roomy <= most);
    CHECK(lse[0] != 0.0f);
  });
}

TEST_CASE("no other verb needs a deep stack", "[regression][builds]") {
  data::cache const logical({1, 2, 2, 300, 128});
  pipeline const policy{snapkv{{.window = 16}}, top_k{{.budget = 100}},
                        kvmerger{{.threshold = 0.4f}}, kivi<4>{{.residual = 32}}};
  data::room<std::remove_const_t<decltype(policy)>> c(policy, logical.shape.extents(),
                                                      {.append_tokens = 8});
  evidence const queries{window_queries{logical.queries(16)}};
  auto const view = logical.view();
  std::vector<std::byte> scratch(append_bytes(c.plan.layout())),
      work(settle_bytes(c.plan.layout()));
  std::vector<float> token(256, 1.0f);
  auto const row = dense_rows(token.data(), {1, 2, 1, 128});
  data::on_each_path([&](isa::path) {
    bool ok = true;
    CHECK(needs([&] {
            ok = compress(cpu{}, c.plan, view, queries, c.packed, c.scratch).ok() && ok;
          }) <= 2 * most);
    CHECK(needs([&] { ok = append(cpu{}, c.packed, row, row, scratch).ok() && ok; }) <= most);
    CHECK(needs([&] { ok = settle(cpu{}, c.packed, work).ok() && ok; }) <= most);
    CHECK(ok);
  });
}

#endif
