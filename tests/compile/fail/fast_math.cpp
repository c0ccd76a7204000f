// expect: kvslim: -ffast-math assumes
// flags: -ffast-math
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>
