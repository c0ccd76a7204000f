// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// A reader of GGUF files (versions 2 and 3): metadata and f32, f16, bf16 and q8_0 tensors. Every
// length is checked against the file before it is used; a damaged file is one error message, never
// a crash. Format: ggml's gguf.md.

#include <cstdint>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace example {

struct gguf_error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class gguf {
 public:
  /// Parses a whole file held in memory. Throws gguf_error.
  explicit gguf(std::vector<std::uint8_t> bytes);
  /// Reads and parses a file. Throws gguf_error.
  static gguf open(std::string const& path);

  /// A metadata number; throws if it is missing and no fallback is given.
  [[nodiscard]] double number(std::string const& key) const;
  [[nodiscard]] double number(std::string const& key, double fallback) const;
  [[nodiscard]] std::string text(std::string const& key) const;
  [[nodiscard]] std::vector<std::string> const& strings(std::string const& key) const;
  [[nodiscard]] bool has_tensor(std::string const& name) const { return tensors_.contains(name); }
  /// A tensor as floats, row-major with `columns` the fastest axis. Throws if it is missing or has
  /// another shape.
  [[nodiscard]] std::vector<float> tensor(std::string const& name, std::uint64_t rows,
                                          std::uint64_t columns) const;

 private:
  struct entry {
    std::vector<std::uint64_t> shape;  // fastest axis first
    std::uint32_t type = 0;
    std::uint64_t offset = 0;
  };

  std::vector<std::uint8_t> bytes_;
  std::map<std::string, double> numbers_;
  std::map<std::string, std::string> texts_;
  std::map<std::string, std::vector<std::string>> lists_;
  std::map<std::string, entry> tensors_;
  std::uint64_t data_ = 0;
};

}  // namespace example
