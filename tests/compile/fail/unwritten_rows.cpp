// expect: compiler: conversion from
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

/// Results go to memory that may be written.
kvslim::rows_out<> run(float const* out) {
  kvslim::rows_out<> const to = kvslim::dense_rows(out, {1, 1, 1, 8});
  return to;
}
