// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#if !defined(KVSLIM_CATCH2_HAS_MAIN)
#define CATCH_CONFIG_MAIN
#include <catch2/catch.hpp>
#endif
