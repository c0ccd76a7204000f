// expect: kvslim: criticalkv takes a bare scorer that observes nothing
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

auto scorer() { return kvslim::criticalkv{kvslim::tova{}, {.budget = 4}}; }
