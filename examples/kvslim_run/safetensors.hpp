// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// A reader and a writer of safetensors files: 8 bytes of header length, a JSON header, the data.
// Every length is checked against the file before it is used; a damaged file is one error message,
// never a crash. Format: huggingface/safetensors, README, "Format".

#include <cstdint>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace example {

struct safetensors_error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// One tensor of a file: row-major, little-endian.
struct tensor {
  std::string type;  ///< "F32", "BF16", "I64", ...
  std::vector<std::int64_t> shape;
  std::span<std::uint8_t const> bytes;

  [[nodiscard]] std::int64_t count() const;
  /// "[2, 8, 512, 64]"
  [[nodiscard]] std::string shape_text() const;
};

class safetensors {
 public:
  /// Parses a whole file held in memory. Throws safetensors_error.
  explicit safetensors(std::vector<std::uint8_t> bytes);
  /// Reads and parses a file. Throws safetensors_error.
  static safetensors open(std::string const& path);

  [[nodiscard]] std::map<std::string, tensor> const& tensors() const { return tensors_; }
  /// Null: there is none of that name.
  [[nodiscard]] tensor const* find(std::string const& name) const;
  /// Values of a tensor of any float type up to 32 bits, and of any integer type. Throws
  /// safetensors_error, which names the tensor, for another type.
  [[nodiscard]] std::vector<float> floats(std::string const& name) const;
  [[nodiscard]] std::vector<std::int64_t> integers(std::string const& name) const;

 private:
  [[nodiscard]] tensor const& at(std::string const& name) const;

  std::vector<std::uint8_t> bytes_;
  std::map<std::string, tensor> tensors_;  // into bytes_
};

/// Tensors to be written, in the order in which they are added.
class safetensors_writer {
 public:
  void add(std::string name, std::vector<std::int64_t> shape, std::span<float const> values);
  void add(std::string name, std::vector<std::int64_t> shape, std::span<std::int32_t const> values);
  void add(std::string name, std::vector<std::int64_t> shape, std::span<std::int64_t const> values);
  /// The file's bytes.
  [[nodiscard]] std::vector<std::uint8_t> bytes() const;

 private:
  struct entry {
    std::string name, type;
    std::vector<std::int64_t> shape;
    std::vector<std::uint8_t> data;
  };
  template <class T>
  void put(std::string name, std::string type, std::vector<std::int64_t> shape,
           std::span<T const> values);

  std::vector<entry> entries_;
};

}  // namespace example
