// expect: kvslim: stages must come in the order
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

auto const p = kvslim::pipeline{kvslim::knorm{}, kvslim::kivi<2>{}, kvslim::top_k{{.budget = 4}}};
