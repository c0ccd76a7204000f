// expect: kvslim: a merger needs a scorer before it
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

auto const p = kvslim::pipeline{kvslim::kvmerger{}};
