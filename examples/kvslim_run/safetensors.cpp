// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "safetensors.hpp"

#include <kvslim/core/elements.hpp>

#include <nlohmann/json.hpp>

#include <bit>
#include <cstring>
#include <fstream>
#include <iterator>
#include <utility>

static_assert(std::endian::native == std::endian::little);

namespace example {

namespace {

using json = nlohmann::json;

constexpr std::uint64_t most_header = 100'000'000;  // as the format's own reader
constexpr std::size_t most_axes = 16;

[[noreturn]] void fail(std::string const& what) { throw safetensors_error("safetensors: " + what); }

/// Bytes of an element; 0: a type that this reader does not know.
std::int64_t size_of(std::string const& type) {
  static std::map<std::string, std::int64_t> const sizes{
      {"F64", 8},  {"I64", 8},     {"U64", 8},     {"F32", 4}, {"I32", 4},
      {"U32", 4},  {"F16", 2},     {"I16", 2},     {"U16", 2}, {"I8", 1},
      {"BF16", 2}, {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"U8", 1},  {"BOOL", 1}};
  auto const found = sizes.find(type);
  return found == sizes.end() ? 0 : found->second;
}

/// A count in [0, most] out of JSON.
std::uint64_t whole(json const& x, std::uint64_t most, std::string const& name) {
  if (!x.is_number_unsigned() || x.get<std::uint64_t>() > most)
    fail("the header's numbers of " + name + " make no sense");
  return x.get<std::uint64_t>();
}

tensor read_entry(std::string const& name, json const& entry, std::span<std::uint8_t const> data) {
  if (!entry.is_object() || !entry.contains("dtype") || !entry["dtype"].is_string() ||
      !entry.contains("shape") || !entry["shape"].is_array() || !entry.contains("data_offsets") ||
      !entry["data_offsets"].is_array() || entry["data_offsets"].size() != 2)
    fail("the header's entry of " + name + " lacks a dtype, a shape or data_offsets");
  tensor t;
  t.type = entry["dtype"].get<std::string>();
  std::int64_t const size = size_of(t.type);
  if (size == 0) fail("the type " + t.type + " of " + name + " is not known");
  if (entry["shape"].size() > most_axes) fail(name + " has too many axes");
  std::uint64_t count = 1;
  constexpr std::uint64_t most = std::uint64_t{1} << 48;
  for (json const& axis : entry["shape"]) {
    std::uint64_t const n = whole(axis, most, name);
    if (n > 0 && count > most / n) fail(name + " is larger than any file");
    count *= n;
    t.shape.push_back(static_cast<std::int64_t>(n));
  }
  std::uint64_t const begin = whole(entry["data_offsets"][0], data.size(), name);
  std::uint64_t const end = whole(entry["data_offsets"][1], data.size(), name);
  if (begin > end || end - begin != count * static_cast<std::uint64_t>(size))
    fail("the data of " + name + " is not as long as its shape says");
  t.bytes = data.subspan(begin, end - begin);
  return t;
}

template <class T, class Out, class Convert>
std::vector<Out> converted(tensor const& t, Convert const& convert) {
  std::vector<Out> out(static_cast<std::size_t>(t.count()));
  for (std::size_t i = 0; i < out.size(); ++i) {
    T x;
    std::memcpy(&x, t.bytes.data() + i * sizeof(T), sizeof(T));
    out[i] = convert(x);
  }
  return out;
}

template <class T>
std::vector<float> as_floats(tensor const& t) {
  return converted<T, float>(t, [](T x) { return kvslim::to_float(x); });
}

template <class T>
std::vector<std::int64_t> as_integers(tensor const& t) {
  return converted<T, std::int64_t>(t, [](T x) { return static_cast<std::int64_t>(x); });
}

}  // namespace

std::int64_t tensor::count() const {
  std::int64_t n = 1;
  for (std::int64_t x : shape) n *= x;
  return n;
}

std::string tensor::shape_text() const {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i)
    text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

safetensors::safetensors(std::vector<std::uint8_t> bytes) : bytes_(std::move(bytes)) {
  std::uint64_t length = 0;
  if (bytes_.size() < sizeof length) fail("the file is shorter than 8 bytes");
  std::memcpy(&length, bytes_.data(), sizeof length);
  if (length > bytes_.size() - sizeof length || length > most_header)
    fail("the file ends inside its header");
  auto const* const start = bytes_.data() + sizeof length;
  json const header = json::parse(start, start + length, nullptr, false);
  if (!header.is_object()) fail("the header is not a JSON object");
  std::span<std::uint8_t const> const data(start + length, bytes_.size() - sizeof length - length);
  for (auto const& [name, entry] : header.items())
    if (name != "__metadata__") tensors_.emplace(name, read_entry(name, entry, data));
}

safetensors safetensors::open(std::string const& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) fail("cannot open " + path);
  std::vector<std::uint8_t> bytes{std::istreambuf_iterator<char>(in), {}};
  if (in.bad()) fail("cannot read " + path);
  return safetensors(std::move(bytes));
}

tensor const* safetensors::find(std::string const& name) const {
  auto const found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

tensor const& safetensors::at(std::string const& name) const {
  tensor const* const found = find(name);
  if (found == nullptr) fail("there is no tensor " + name);
  return *found;
}

std::vector<float> safetensors::floats(std::string const& name) const {
  tensor const& t = at(name);
  if (t.type == "F32") return as_floats<float>(t);
  if (t.type == "F16") return as_floats<kvslim::f16>(t);
  if (t.type == "BF16") return as_floats<kvslim::bf16>(t);
  if (t.type == "F8_E4M3") return as_floats<kvslim::e4m3>(t);
  if (t.type == "F8_E5M2") return as_floats<kvslim::e5m2>(t);
  fail(name + " is " + t.type + ", it must be F32, F16, BF16, F8_E4M3 or F8_E5M2");
}

std::vector<std::int64_t> safetensors::integers(std::string const& name) const {
  tensor const& t = at(name);
  if (t.type == "I64") return as_integers<std::int64_t>(t);
  if (t.type == "I32") return as_integers<std::int32_t>(t);
  if (t.type == "I16") return as_integers<std::int16_t>(t);
  if (t.type == "I8") return as_integers<std::int8_t>(t);
  if (t.type == "U8" || t.type == "BOOL") return as_integers<std::uint8_t>(t);
  fail(name + " is " + t.type + ", it must be I64, I32, I16, I8, U8 or BOOL");
}

template <class T>
void safetensors_writer::put(std::string name, std::string type, std::vector<std::int64_t> shape,
                             std::span<T const> values) {
  entry e{std::move(name), std::move(type), std::move(shape), {}};
  e.data.resize(values.size_bytes());
  if (!values.empty()) std::memcpy(e.data.data(), values.data(), values.size_bytes());
  entries_.push_back(std::move(e));
}

void safetensors_writer::add(std::string name, std::vector<std::int64_t> shape,
                             std::span<float const> values) {
  put(std::move(name), "F32", std::move(shape), values);
}
void safetensors_writer::add(std::string name, std::vector<std::int64_t> shape,
                             std::span<std::int32_t const> values) {
  put(std::move(name), "I32", std::move(shape), values);
}
void safetensors_writer::add(std::string name, std::vector<std::int64_t> shape,
                             std::span<std::int64_t const> values) {
  put(std::move(name), "I64", std::move(shape), values);
}

std::vector<std::uint8_t> safetensors_writer::bytes() const {
  auto header = nlohmann::ordered_json::object();
  std::size_t at = 0;
  for (entry const& e : entries_) {
    header[e.name] = {
        {"dtype", e.type}, {"shape", e.shape}, {"data_offsets", {at, at + e.data.size()}}};
    at += e.data.size();
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // so that the data is aligned
  std::uint64_t const length = text.size();
  std::vector<std::uint8_t> out(sizeof length + text.size() + at);
  std::uint8_t* to = out.data();
  auto const append = [&](void const* from, std::size_t size) {
    if (size > 0) std::memcpy(to, from, size);
    to += size;
  };
  append(&length, sizeof length);
  append(text.data(), text.size());
  for (entry const& e : entries_) append(e.data.data(), e.data.size());
  return out;
}

}  // namespace example
