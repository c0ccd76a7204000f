// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#define KVSLIM_ODR_FUNCTION second
#include "unit.hpp"
