// expect: kvslim: a quota needs a scorer before it
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

auto const p = kvslim::pipeline{kvslim::top_k{{.budget = 4}}, kvslim::kivi<2>{}};
