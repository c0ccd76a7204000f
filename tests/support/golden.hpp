// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/elements.hpp>

#include <fstream>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

/// A file of golden vectors: "name kind count", then the values.
class golden {
 public:
  explicit golden(std::string const& name) {
    std::ifstream in(std::string(KVSLIM_GOLDEN_DIR) + "/" + name + ".txt");
    std::string provenance;
    if (!std::getline(in, provenance) || provenance.rfind("# ", 0) != 0)
      throw std::runtime_error("golden file without provenance: " + name);
    std::string entry, kind;
    std::size_t count = 0;
    while (in >> entry >> kind >> count) {
      auto& values = data_[entry];
      for (std::size_t i = 0; i < count; ++i) {
        std::string word;
        in >> word;
        if (kind == "int") values.push_back(std::stod(word));
        auto const bits = kind == "int" ? 0ul : std::stoul(word, nullptr, 16);
        if (kind == "f16")
          values.push_back(kvslim::to_float(kvslim::f16{static_cast<std::uint16_t>(bits)}));
        if (kind == "f32")
          values.push_back(kvslim::detail::bit_cast<float>(static_cast<std::uint32_t>(bits)));
      }
    }
  }
  [[nodiscard]] std::vector<double> const& operator[](std::string const& name) const {
    return data_.at(name);
  }
  [[nodiscard]] std::vector<float> floats(std::string const& name) const {
    return {data_.at(name).begin(), data_.at(name).end()};
  }

 private:
  std::map<std::string, std::vector<double>> data_;
};
