// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#define KVSLIM_ODR_FUNCTION first
#include "unit.hpp"
