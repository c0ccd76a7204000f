// expect: kvslim: chunked takes a bare scorer that observes nothing and reads no queries
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

auto scorer() { return kvslim::chunked{kvslim::snapkv{}}; }
