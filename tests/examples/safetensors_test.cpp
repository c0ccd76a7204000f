// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "kvslim_run/safetensors.hpp"

#include "support/catch.hpp"

#include <cstring>
#include <random>

using example::safetensors;
using example::safetensors_error;

namespace {

std::vector<std::uint8_t> file_of(std::string const& header, std::size_t data_bytes) {
  std::vector<std::uint8_t> out(8 + header.size() + data_bytes);
  std::uint64_t const length = header.size();
  std::memcpy(out.data(), &length, 8);
  std::memcpy(out.data() + 8, header.data(), header.size());
  for (std::size_t i = 0; i < data_bytes; ++i)
    out[8 + header.size() + i] = static_cast<std::uint8_t>(i);
  return out;
}

std::vector<std::uint8_t> whole() {
  example::safetensors_writer w;
  std::vector<float> const x{1.0f, -2.5f, 3.0f, 0.0f, 5.0f, 6.0f};
  std::vector<std::int64_t> const n{-7, 1, 0};
  w.add("x", {2, 3}, std::span<float const>(x));
  w.add("n", {3}, std::span<std::int64_t const>(n));
  return w.bytes();
}

}  // namespace

TEST_CASE("safetensors reads what it wrote", "[safetensors]") {
  safetensors const file(whole());
  CHECK(file.floats("x") == std::vector<float>{1.0f, -2.5f, 3.0f, 0.0f, 5.0f, 6.0f});
  CHECK(file.integers("n") == std::vector<std::int64_t>{-7, 1, 0});
  CHECK(file.find("x")->shape_text() == "[2, 3]");
  CHECK(file.find("y") == nullptr);
  CHECK_THROWS_AS(file.floats("y"), safetensors_error);
  CHECK_THROWS_AS(file.floats("n"), safetensors_error);
  CHECK_THROWS_AS(file.integers("x"), safetensors_error);
}

TEST_CASE("safetensors reads 16-bit and 8-bit floats, metadata and scalars", "[safetensors]") {
  auto bytes = file_of(
      R"({"__metadata__":{"format":"pt"},"h":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},)"
      R"("b":{"dtype":"BF16","shape":[],"data_offsets":[4,6]},)"
      R"("e":{"dtype":"F8_E5M2","shape":[1,1],"data_offsets":[6,7]},)"
      R"("z":{"dtype":"F32","shape":[0,4],"data_offsets":[7,7]}})",
      7);
  std::uint8_t const data[] = {0x00, 0x3c, 0x00, 0xc0, 0x80, 0x3f, 0x40};
  std::memcpy(bytes.data() + bytes.size() - 7, data, 7);
  safetensors const file(std::move(bytes));
  CHECK(file.tensors().size() == 4);
  CHECK(file.floats("h") == std::vector<float>{1.0f, -2.0f});
  CHECK(file.floats("b") == std::vector<float>{1.0f});
  CHECK(file.floats("e") == std::vector<float>{2.0f});
  CHECK(file.floats("z").empty());
}

TEST_CASE("safetensors refuses headers that lie", "[safetensors]") {
  auto const refused = [](std::string const& entry, std::size_t bytes = 16) {
    INFO(entry);
    CHECK_THROWS_AS(safetensors(file_of(entry, bytes)), safetensors_error);
  };
  auto const entry = [](std::string const& type, std::string const& shape,
                        std::string const& offsets) {
    return R"({"x":{"dtype":)" + type + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets +
           "}}";
  };
  CHECK_NOTHROW(safetensors(file_of(entry("\"F32\"", "[4]", "[0,16]"), 16)));
  refused("[]");
  refused("{");
  refused(R"({"x":3})");
  refused(entry("3", "[4]", "[0,16]"));
  refused(entry("\"F3\"", "[4]", "[0,16]"));
  refused(entry("\"F32\"", "4", "[0,16]"));
  refused(entry("\"F32\"", "[4]", "[0]"));
  refused(entry("\"F32\"", "[4]", "[0,20]"), 16);
  refused(entry("\"F32\"", "[4]", "[4,16]"));
  refused(entry("\"F32\"", "[4]", "[16,0]"));
  refused(entry("\"F32\"", "[-4]", "[0,16]"));
  refused(entry("\"F32\"", "[4.0]", "[0,16]"));
  refused(entry("\"F32\"", "[4294967296,4294967296,4294967296]", "[0,0]"));
  refused(entry("\"F32\"", "[4611686018427387904,4]", "[0,0]"));
  refused(entry("\"F32\"", "[0,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", "[0,0]"));
}

TEST_CASE("safetensors cut or damaged anywhere is an error or a file", "[safetensors]") {
  auto const bytes = whole();
  for (std::size_t n = 0; n < bytes.size(); ++n)
    CHECK_THROWS_AS(safetensors({bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(n)}),
                    safetensors_error);
  std::mt19937 engine(1);
  for (int i = 0; i < 20000; ++i) {
    auto damaged = bytes;
    for (int j = 0; j < 3; ++j)
      damaged[engine() % damaged.size()] = static_cast<std::uint8_t>(engine());
    try {
      safetensors const file(std::move(damaged));
      for (auto const& [name, t] : file.tensors())
        if (t.type == "F32") static_cast<void>(file.floats(name));
    } catch (safetensors_error const&) {
    }
  }
}
