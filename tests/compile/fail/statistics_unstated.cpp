// expect: kvslim: this quota reads statistics of rows
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

auto const p = kvslim::pipeline{kvslim::snapkv{}, kvslim::cake{{.budget = 64}}};
