// expect: kvslim: C++20 is needed
// flags: -std=c++17
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>
