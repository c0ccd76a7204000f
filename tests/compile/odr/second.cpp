// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#define KVSLIM_ODR_FUNCTION second
#define KVSLIM_ODR_WIDEN second_widen
#include "unit.hpp"
