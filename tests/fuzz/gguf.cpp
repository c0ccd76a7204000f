// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// The GGUF reader, and the vocabulary made from it, on arbitrary bytes.

#include "inference/tokenizer.hpp"

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  try {
    example::gguf const file({data, data + size});
    static_cast<void>(file.number("llama.block_count", 0));
    for (char const* name : {"a", "token_embd.weight", "output.weight"})
      for (std::uint64_t rows : {1u, 2u, 4u})
        if (file.has_tensor(name)) static_cast<void>(file.tensor(name, rows, 32));
    static_cast<void>(example::tokenizer(file).encode("The code is 12345.\n"));
  } catch (example::gguf_error const&) {
  }
  return 0;
}
