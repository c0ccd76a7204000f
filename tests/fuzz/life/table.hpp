// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// The policies that live, in units of a few each.

#include "life/dice.hpp"

namespace life {

struct entry {
  char const* name;
  void (*live)(dice&);
};

std::vector<entry> quantizers();
std::vector<entry> scorers();
std::vector<entry> observers();
std::vector<entry> bases();
std::vector<entry> low_ranks();

}  // namespace life
