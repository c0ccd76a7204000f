// expect: kvslim: codec_pair's second codec does not store values
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

auto const p = kvslim::codec_pair{kvslim::token_key<8>{}, kvslim::token_key<8>{}};
