// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// The safetensors reader of kvslim_run on arbitrary bytes.

#include "kvslim_run/safetensors.hpp"

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  try {
    example::safetensors const file({data, data + size});
    for (auto const& [name, t] : file.tensors()) try {
        static_cast<void>(t.type[0] == 'I' || t.type[0] == 'U' ? file.integers(name).size()
                                                               : file.floats(name).size());
      } catch (example::safetensors_error const&) {
      }
  } catch (example::safetensors_error const&) {
  }
  return 0;
}
