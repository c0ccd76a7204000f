// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#define KVSLIM_ODR_FUNCTION first
#define KVSLIM_ODR_WIDEN first_widen
#include "unit.hpp"
