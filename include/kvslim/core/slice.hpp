// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/status.hpp>

KVSLIM_BEGIN_NAMESPACE

/// A pointer and a count. std::span is host-only under nvcc, and costs an include.
template <class T>
struct slice {
  T* data = nullptr;
  index_t size = 0;

  [[nodiscard]] KVSLIM_HD constexpr T& operator[](index_t i) const noexcept {
    KVSLIM_ASSERT(i >= 0 && i < size);
    return data[i];
  }
  [[nodiscard]] KVSLIM_HD constexpr T* begin() const noexcept { return data; }
  [[nodiscard]] KVSLIM_HD constexpr T* end() const noexcept { return data + size; }
};

/// Scratch memory of the caller's: `data` aligned to alignment_bytes, `bytes` of it.
struct workspace {
  std::byte* data = nullptr;
  std::size_t bytes = 0;

  constexpr workspace() noexcept = default;
  constexpr workspace(std::byte* memory, std::size_t size) noexcept : data(memory), bytes(size) {}
  /// Anything that has data() and size() in bytes, such as std::vector<std::byte>.
  template <class Buffer>
  requires requires(Buffer& b) {
    {static_cast<std::byte*>(b.data())};
    b.size();
  }
  constexpr workspace(Buffer& buffer) noexcept : data(buffer.data()), bytes(buffer.size()) {}
};

namespace detail {

/// Hands out aligned pieces of a buffer; with a null base it only counts. Sizing and running use
/// the same carve, so they cannot disagree.
class carver {
 public:
  static constexpr index_t piece_alignment = 64;

  KVSLIM_HD constexpr explicit carver(std::byte* base) noexcept : base_(base) {}
  template <class T>
  KVSLIM_HD constexpr T* take(index_t count) noexcept {
    std::byte* const at = base_ == nullptr ? nullptr : base_ + used_;
    used_ += round_up(count * static_cast<index_t>(sizeof(T)), piece_alignment);
    // Counting stays a constant expression: no cast of a null pointer either.
    return at == nullptr ? nullptr : static_cast<T*>(static_cast<void*>(at));
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t used() const noexcept { return used_; }

 private:
  std::byte* base_;
  index_t used_ = 0;
};

[[nodiscard]] inline bool is_aligned(void const* p) noexcept {
  return reinterpret_cast<std::uintptr_t>(p) % static_cast<std::uintptr_t>(alignment_bytes) == 0;
}

/// True if two stretches of memory share a byte.
[[nodiscard]] inline bool overlap(void const* a, std::size_t a_bytes, void const* b,
                                  std::size_t b_bytes) noexcept {
  auto const x = reinterpret_cast<std::uintptr_t>(a), y = reinterpret_cast<std::uintptr_t>(b);
  return x < y + b_bytes && y < x + a_bytes;
}

/// A workspace that is there, aligned and large enough.
[[nodiscard]] inline status check_workspace(workspace const& memory, std::size_t needed) noexcept {
  if (needed > 0 && (memory.data == nullptr || !is_aligned(memory.data)))
    return fail(errc::invalid_pointer, "kvslim: the workspace is null or not aligned to 16 bytes");
  if (memory.bytes < needed)
    return fail(errc::buffer_too_small, "kvslim: the workspace is below what the plan asks for");
  return {};
}

}  // namespace detail

KVSLIM_END_NAMESPACE
