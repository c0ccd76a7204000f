// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

[[maybe_unused]] int const registered[] = {
    bench::add("chunked_keydiff_25",
               [](index_t tokens) {
                 return pipeline{chunked{keydiff{}}, top_k{{.budget = tokens / 4}}};
               }),
};

}  // namespace
