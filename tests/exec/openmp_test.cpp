// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// The OpenMP executor, in a program that is compiled with OpenMP.

#include "support/catch.hpp"
#include "support/life.hpp"
#include "support/oracle.hpp"

#include <kvslim/exec/openmp.hpp>

#include <omp.h>

#include <atomic>

using namespace kvslim;

TEST_CASE("OpenMP gives the serial result", "[exec]") {
  data::cache const c({.sequences = 2, .kv_heads = 2, .tokens = 90, .head_dim = 32});
  pipeline const policy{snapkv{{.window = 8}}, top_k{{.budget = 40}}, kivi<4>{{.residual = 32}}};
  evidence const ev{window_queries{c.queries(8)}};
  data::compressed const serial(policy, c.view(), ev);
  for (int threads : {-1, 0, 1, 2, 5}) {
    data::room const room(policy, c.shape.extents(), {});
    openmp const exec{.threads = threads};
    REQUIRE(compress(exec, room.plan, c.view(), ev, room.packed, room.scratch).ok());
    CHECK(data::bytes_of(room.packed) == data::bytes_of(serial.packed));
    CHECK(room.intact());
    oracle::asked one(room.packed, c.queries(3)), other(room.packed, c.queries(3));
    REQUIRE(attend(cpu{}, room.packed, one.request).ok());
    REQUIRE(attend(exec, room.packed, other.request).ok());
    CHECK(one.out == other.out);
  }
}

TEST_CASE("the loop really runs on as many threads as were asked for", "[exec]") {
  for (int threads : {1, 3}) {
    std::atomic<int> most = 0, calls = 0;
    openmp{.threads = threads}.for_each(64, [&](index_t) {
      most = omp_get_num_threads();
      ++calls;
    });
    CHECK(most == threads);
    CHECK(calls == 64);
  }
}
