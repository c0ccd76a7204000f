// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "gguf.hpp"

#include <kvslim/core/elements.hpp>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>

namespace example {

namespace {

/// A cursor that refuses to leave the file.
class cursor {
 public:
  explicit cursor(std::span<std::uint8_t const> bytes) : bytes_(bytes) {}

  template <class T>
  T read() {
    T value;
    std::memcpy(&value, take(sizeof(T)).data(), sizeof(T));
    return value;
  }
  std::string string() {
    auto const length = read<std::uint64_t>();
    auto const part = take(length);
    return {reinterpret_cast<char const*>(part.data()), part.size()};
  }
  std::span<std::uint8_t const> take(std::uint64_t count) {
    if (count > bytes_.size() - at_) throw gguf_error("GGUF: the file ends inside its header");
    auto const part = bytes_.subspan(at_, count);
    at_ += count;
    return part;
  }
  [[nodiscard]] std::uint64_t at() const { return at_; }
  [[nodiscard]] std::uint64_t left() const { return bytes_.size() - at_; }

 private:
  std::span<std::uint8_t const> bytes_;
  std::uint64_t at_ = 0;
};

enum value_type : std::uint32_t {
  u8,
  i8,
  u16,
  i16,
  u32,
  i32,
  f32,
  boolean,
  string,
  array,
  u64,
  i64,
  f64
};
enum tensor_type : std::uint32_t {
  tensor_f32 = 0,
  tensor_f16 = 1,
  tensor_q8_0 = 8,
  tensor_bf16 = 30
};

double read_number(cursor& in, std::uint32_t type) {
  switch (type) {
    case u8:
      return in.read<std::uint8_t>();
    case i8:
      return in.read<std::int8_t>();
    case u16:
      return in.read<std::uint16_t>();
    case i16:
      return in.read<std::int16_t>();
    case u32:
      return in.read<std::uint32_t>();
    case i32:
      return in.read<std::int32_t>();
    case f32:
      return static_cast<double>(in.read<float>());
    case boolean:
      return in.read<std::uint8_t>() != 0 ? 1.0 : 0.0;
    case u64:
      return static_cast<double>(in.read<std::uint64_t>());
    case i64:
      return static_cast<double>(in.read<std::int64_t>());
    case f64:
      return in.read<double>();
    default:
      throw gguf_error("GGUF: unknown metadata type");
  }
}

std::uint64_t tensor_bytes(std::uint32_t type, std::uint64_t count) {
  switch (type) {
    case tensor_f32:
      return count * 4;
    case tensor_f16:
    case tensor_bf16:
      return count * 2;
    case tensor_q8_0:
      return count / 32 * 34;
    default:
      throw gguf_error("GGUF: only f32, f16, bf16 and q8_0 tensors can be read");
  }
}

}  // namespace

gguf gguf::open(std::string const& path) {
  // A directory can be opened like a file, and then says that it has 2^63 - 1 bytes.
  std::error_code none;
  if (!std::filesystem::is_regular_file(path, none))
    throw gguf_error("GGUF: " + path + " is not a file");
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file || file.tellg() < 0) throw gguf_error("GGUF: cannot open " + path);
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(file.tellg()));
  file.seekg(0);
  if (!file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size())))
    throw gguf_error("GGUF: cannot read " + path);
  return gguf(std::move(bytes));
}

gguf::gguf(std::vector<std::uint8_t> bytes) : bytes_(std::move(bytes)) {
  cursor in(bytes_);
  if (in.read<std::uint32_t>() != 0x46554747u) throw gguf_error("GGUF: not a GGUF file");
  auto const version = in.read<std::uint32_t>();
  if (version != 2 && version != 3) throw gguf_error("GGUF: only versions 2 and 3 can be read");
  auto const tensor_count = in.read<std::uint64_t>();
  auto const value_count = in.read<std::uint64_t>();
  for (std::uint64_t i = 0; i < value_count; ++i) {
    auto const key = in.string();
    auto const type = in.read<std::uint32_t>();
    if (type == string) {
      texts_[key] = in.string();
    } else if (type == array) {
      auto const inner = in.read<std::uint32_t>();
      auto const count = in.read<std::uint64_t>();
      if (count > in.left()) throw gguf_error("GGUF: an array is longer than the file");
      if (inner == string) {
        auto& list = lists_[key];
        for (std::uint64_t j = 0; j < count; ++j) list.push_back(in.string());
      } else {
        for (std::uint64_t j = 0; j < count; ++j) static_cast<void>(read_number(in, inner));
      }
    } else {
      numbers_[key] = read_number(in, type);
    }
  }
  for (std::uint64_t i = 0; i < tensor_count; ++i) {
    auto const name = in.string();
    entry e;
    auto const dimensions = in.read<std::uint32_t>();
    if (dimensions < 1 || dimensions > 4)
      throw gguf_error("GGUF: a tensor has a wrong number of dimensions");
    for (std::uint32_t d = 0; d < dimensions; ++d) e.shape.push_back(in.read<std::uint64_t>());
    e.type = in.read<std::uint32_t>();
    e.offset = in.read<std::uint64_t>();
    tensors_[name] = e;
  }
  double const alignment = number("general.alignment", 32);
  if (!(alignment >= 1 && alignment <= 65536)) throw gguf_error("GGUF: impossible alignment");
  auto const step = static_cast<std::uint64_t>(alignment);
  data_ = (in.at() + step - 1) / step * step;
}

double gguf::number(std::string const& key) const {
  auto const found = numbers_.find(key);
  if (found == numbers_.end()) throw gguf_error("GGUF: missing metadata " + key);
  return found->second;
}
double gguf::number(std::string const& key, double fallback) const {
  auto const found = numbers_.find(key);
  return found == numbers_.end() ? fallback : found->second;
}
std::string gguf::text(std::string const& key) const {
  auto const found = texts_.find(key);
  return found == texts_.end() ? std::string() : found->second;
}
std::vector<std::string> const& gguf::strings(std::string const& key) const {
  static std::vector<std::string> const none;
  auto const found = lists_.find(key);
  return found == lists_.end() ? none : found->second;
}

std::vector<float> gguf::tensor(std::string const& name, std::uint64_t rows,
                                std::uint64_t columns) const {
  auto const found = tensors_.find(name);
  if (found == tensors_.end()) throw gguf_error("GGUF: missing tensor " + name);
  auto const& e = found->second;
  std::uint64_t const have_rows = e.shape.size() > 1 ? e.shape[1] : 1;
  bool const flat = std::all_of(e.shape.begin() + std::min<std::ptrdiff_t>(2, std::ssize(e.shape)),
                                e.shape.end(), [](auto n) { return n == 1; });
  if (e.shape[0] != columns || have_rows != rows || !flat)
    throw gguf_error("GGUF: tensor " + name + " has an unexpected shape");
  if (rows == 0 || columns == 0 || columns > (std::uint64_t{1} << 40) / rows)
    throw gguf_error("GGUF: tensor " + name + " is too large");
  std::uint64_t const count = rows * columns;
  if (e.type == tensor_q8_0 && columns % 32 != 0)
    throw gguf_error("GGUF: a q8_0 tensor needs rows of 32");
  std::uint64_t const size = tensor_bytes(e.type, count);
  if (data_ > bytes_.size() || e.offset > bytes_.size() - data_ ||
      size > bytes_.size() - data_ - e.offset)
    throw gguf_error("GGUF: tensor " + name + " lies outside the file");
  std::uint8_t const* const from = bytes_.data() + data_ + e.offset;
  std::vector<float> out(count);
  auto const half = [&](std::uint64_t at) {
    std::uint16_t bits;
    std::memcpy(&bits, from + at, 2);
    return bits;
  };
  for (std::uint64_t i = 0; i < count; ++i) {
    if (e.type == tensor_f32) std::memcpy(&out[i], from + i * 4, 4);
    if (e.type == tensor_f16) out[i] = kvslim::to_float(kvslim::f16{half(i * 2)});
    if (e.type == tensor_bf16) out[i] = kvslim::to_float(kvslim::bf16{half(i * 2)});
    if (e.type == tensor_q8_0) {
      std::uint64_t const block = i / 32 * 34;
      out[i] = kvslim::to_float(kvslim::f16{half(block)}) *
               static_cast<float>(static_cast<std::int8_t>(from[block + 2 + i % 32]));
    }
  }
  return out;
}

}  // namespace example
