// expect: kvslim: codec_pair's first codec does not store keys
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

auto const p = kvslim::codec_pair{kvslim::token_value<8>{}, kvslim::token_value<8>{}};
