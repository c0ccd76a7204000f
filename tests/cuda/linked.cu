// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

#include "linked.hpp"

std::vector<float> on_device::from_the_other_unit() { return compressed_and_attended(); }
