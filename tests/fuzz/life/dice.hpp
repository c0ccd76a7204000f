// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Where a run's choices come from, memory that ends where the plan says, and how a finding is told.

#include <kvslim/kvslim.hpp>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <random>
#include <vector>

namespace life {

using kvslim::index_t;

/// Seeded choices; the first ones may be given as bytes, for a fuzzer that mutates them.
class dice {
 public:
  explicit dice(std::uint64_t seed, std::uint8_t const* bytes = nullptr, std::size_t size = 0)
      : engine_(seed), bytes_(bytes), left_(size) {}

  std::uint64_t word() {
    if (left_ == 0) return engine_();
    --left_;
    return *bytes_++ * 0x0101010101010101u;
  }
  /// A number in [low, high].
  index_t in(index_t low, index_t high) {
    return low + static_cast<index_t>(word() % static_cast<std::uint64_t>(high - low + 1));
  }
  bool one_in(index_t n) { return in(1, n) == 1; }
  /// Mostly small numbers up to high.
  index_t small(index_t high) { return one_in(2) ? in(0, high) : in(0, high < 3 ? high : 3); }
  template <class T, std::size_t N>
  T pick(T const (&list)[N]) {
    return list[static_cast<std::size_t>(in(0, static_cast<index_t>(N) - 1))];
  }
  float normal() { return distribution_(engine_); }

 private:
  std::mt19937_64 engine_;
  std::normal_distribution<float> distribution_;
  std::uint8_t const* bytes_;
  std::size_t left_;
};

inline char const* where = "";  // what the current life is doing
inline std::uint64_t current_seed = 0;

[[noreturn]] inline void report(char const* what, char const* file, int line) {
  std::fprintf(stderr, "FINDING: %s\n  at %s:%d, life %llu, %s\n", what, file, line,
               static_cast<unsigned long long>(current_seed), where);
  std::abort();
}

#define LIFE_CHECK(condition) \
  ((condition) ? static_cast<void>(0) : life::report(#condition, __FILE__, __LINE__))
#define LIFE_OK(call)                                                                        \
  do {                                                                                       \
    if (kvslim::status const s_ = (call); !s_) life::report(s_.message, __FILE__, __LINE__); \
  } while (0)

/// Exactly so many bytes, between the sanitizer's red zones. Only as aligned as the library asks.
class memory {
 public:
  memory() = default;
  explicit memory(std::size_t bytes, std::size_t shift = 16)
      : size_(bytes), shift_(shift), data_(new (std::align_val_t{64}) std::byte[bytes + shift]) {
    for (std::size_t i = 0; i < bytes + shift; ++i) data_[i] = std::byte{0xa5};
  }
  [[nodiscard]] std::byte* data() const { return data_.get() + shift_; }
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] std::vector<std::byte> copy() const { return {data(), data() + size_}; }
  [[nodiscard]] bool equals(std::vector<std::byte> const& other) const {
    return other.size() == size_ && std::equal(other.begin(), other.end(), data());
  }

 private:
  struct release {
    void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t{64}); }
  };
  std::size_t size_ = 0, shift_ = 0;
  std::unique_ptr<std::byte[], release> data_;
};

/// The value that element type T would hold.
template <class T>
float rounded(float x) {
  return kvslim::to_float(kvslim::from_float<T>(x));
}

inline std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

}  // namespace life
