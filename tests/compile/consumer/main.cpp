// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

int main() { return kvslim::make_plan(kvslim::kivi<2>{}, {1, 1, 128, 64}).check().ok() ? 0 : 1; }
