// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Compiled several times, each with other flags and KVSLIM_ODR_FUNCTION.
#include "unit.hpp"
