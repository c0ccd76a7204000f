// expect: kvslim: blend takes two bare scorers that observe nothing
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

auto scorer() { return kvslim::blend{kvslim::knorm{}, kvslim::tova{}}; }
