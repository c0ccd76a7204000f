// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/view.hpp>

KVSLIM_BEGIN_NAMESPACE

/// The channels of one K or V row as floats, whatever their element type and stride: `for (float x
/// : token.key())`.
template <class T>
class channel_range {
 public:
  class iterator {
   public:
    KVSLIM_HD constexpr iterator(T const* at, index_t stride) noexcept : at_(at), stride_(stride) {}
    KVSLIM_HD constexpr float operator*() const noexcept { return to_float(*at_); }
    KVSLIM_HD constexpr iterator& operator++() noexcept {
      at_ += stride_;
      return *this;
    }
    KVSLIM_HD constexpr bool operator!=(iterator const& other) const noexcept {
      return at_ != other.at_;
    }

   private:
    T const* at_;
    index_t stride_;
  };

  KVSLIM_HD constexpr channel_range(T const* first, index_t stride, index_t size) noexcept
      : first_(first), stride_(stride), size_(size) {}
  [[nodiscard]] KVSLIM_HD constexpr iterator begin() const noexcept { return {first_, stride_}; }
  [[nodiscard]] KVSLIM_HD constexpr iterator end() const noexcept {
    return {first_ + size_ * stride_, stride_};
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t size() const noexcept { return size_; }
  [[nodiscard]] KVSLIM_HD constexpr float operator[](index_t d) const noexcept {
    return to_float(first_[d * stride_]);
  }

 private:
  T const* first_;
  index_t stride_;
  index_t size_;
};

/// What a token scorer is given: one token of one KV head.
template <class Cache>
class token_ref {
 public:
  KVSLIM_HD constexpr token_ref(Cache const& cache, index_t sequence, index_t kv_head,
                                index_t index) noexcept
      : cache_(cache), sequence_(sequence), kv_head_(kv_head), index_(index) {}

  [[nodiscard]] KVSLIM_HD constexpr auto key() const noexcept { return channels(cache_.k); }
  [[nodiscard]] KVSLIM_HD constexpr auto value() const noexcept { return channels(cache_.v); }
  [[nodiscard]] KVSLIM_HD constexpr index_t sequence() const noexcept { return sequence_; }
  [[nodiscard]] KVSLIM_HD constexpr index_t kv_head() const noexcept { return kv_head_; }
  /// Place in the cache, 0 to tokens() - 1; position() is the logical position in the text.
  [[nodiscard]] KVSLIM_HD constexpr index_t index() const noexcept { return index_; }
  [[nodiscard]] KVSLIM_HD constexpr std::int32_t position() const noexcept {
    return cache_.position(sequence_, index_);
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t tokens() const noexcept {
    return cache_.length(sequence_);
  }

 private:
  template <class Plane>
  [[nodiscard]] KVSLIM_HD constexpr auto channels(Plane const& plane) const noexcept {
    return channel_range<typename Plane::value_type>(plane.row(sequence_, kv_head_, index_),
                                                     plane.layout.channel, cache_.extent.head_dim);
  }

  Cache const& cache_;
  index_t sequence_, kv_head_, index_;
};

KVSLIM_END_NAMESPACE
