// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Saved sequences of llama.cpp, and compressed ones, on arbitrary bytes. The first byte says which;
// of a compressed one the size and the checksum are set right, or nothing else would be reached.

#include "llama_cpp/codecs.hpp"

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  using namespace example;
  if (size == 0) return 0;
  auto const* const begin = reinterpret_cast<std::byte const*>(data);
  std::vector<std::byte> bytes(begin + 1, begin + size);
  try {
    if (data[0] % 2 == 0) {
      static_cast<void>(compress_saved(bytes, {1 + data[0] / 2 % 4}, kvslim::dense<kvslim::f16>{}));
    } else {
      if (bytes.size() >= example::detail::container_head) {
        std::uint64_t const length = bytes.size(), sum = example::detail::container_checksum(bytes);
        std::memcpy(bytes.data() + 16, &length, 8);
        std::memcpy(bytes.data() + 24, &sum, 8);
      }
      static_cast<void>(restore_saved(bytes, known_forms{}));
    }
  } catch (saved_error const&) {
  }
  return 0;
}
