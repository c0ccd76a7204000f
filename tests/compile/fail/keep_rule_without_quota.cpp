// expect: kvslim: a keep rule needs a quota before it
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

auto const p = kvslim::pipeline{kvslim::knorm{}, kvslim::kvcrush{}};
