// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// The GGUF reader on arbitrary bytes.

#include "inference/gguf.hpp"

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  try {
    example::gguf const file({data, data + size});
    static_cast<void>(file.number("llama.block_count", 0));
    static_cast<void>(file.strings("tokenizer.ggml.tokens"));
    for (char const* name : {"a", "token_embd.weight", "output.weight"})
      for (std::uint64_t rows : {1, 2, 4})
        if (file.has_tensor(name)) static_cast<void>(file.tensor(name, rows, 32));
  } catch (example::gguf_error const&) {
  }
  return 0;
}
