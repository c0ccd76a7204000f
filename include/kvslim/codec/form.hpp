// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// What the codecs that ship write down about themselves, and the bounds that keep their sizes from
// overflowing.

#include <kvslim/core/codec.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// The stored numbers of codecs; they never change. A form's id adds the bits per code and the
/// element types that a reader must agree on.
enum class form_kind : std::uint32_t {
  dense_key = 1,
  dense_value = 2,
  channel_key = 3,
  token_key = 4,
  token_value = 5,
  slice_of_key = 6,
  ggml_rows = 7,
  rotated_rows = 8,
  outlier_key = 9,
  outlier_value = 10,
  low_rank_sum = 11,
  shared_key = 12,
  shared_value = 13,
  latent = 14,
  rebuilt_key = 15,
  centred_key = 16,
  centred_value = 17,
  chosen_channels = 18,
  codebook_key = 19,
  codebook_value = 20,
  prompt_channel_key = 21,
  scaled_rows = 22,
  run_channel_key = 23,
  fp8_key = 32,
  fp8_value = 33,
  fp4_rows = 34,
  turbo_key = 35,
  turbo_value = 36,
  sparse_rows = 40,
};

template <element T>
[[nodiscard]] KVSLIM_HD constexpr form_id dense_form(form_kind kind) noexcept {
  return form_id{static_cast<std::uint32_t>(kind) << 16 | element_number<T>()};
}
template <element Tail, element Param>
[[nodiscard]] KVSLIM_HD constexpr form_id affine_form(form_kind kind, int bits) noexcept {
  return form_id{static_cast<std::uint32_t>(kind) << 16 | static_cast<std::uint32_t>(bits) << 8 |
                 element_number<Tail>() << 4 | element_number<Param>()};
}

/// Whether `f` is of this id and holds nothing after its first `used` words.
[[nodiscard]] constexpr bool is_form(form const& f, form_id id, int used) noexcept {
  bool same = f.id == id.value;
  for (int i = used; i < 7; ++i) same = same && f.words[i] == 0;
  return same;
}
[[nodiscard]] constexpr status foreign_form() noexcept {
  return fail(errc::foreign, "kvslim: the stored form is not this codec's");
}

/// Widest head and longest exact tail: far beyond any model, far from overflow.
inline constexpr index_t most_channels = index_t{1} << 20;
inline constexpr index_t most_residual = index_t{1} << 20;

/// The bound of a codec that keeps some numbers as f16.
[[nodiscard]] KVSLIM_HD constexpr float within_f16(float limit) noexcept {
  return limit < 65504.0f ? limit : 65504.0f;
}

[[nodiscard]] KVSLIM_HD constexpr status check_channels(index_t dim) noexcept {
  if (dim < 1 || dim > most_channels)
    return fail(errc::invalid_shape, "kvslim: head_dim must be between 1 and 1048576");
  return {};
}
/// Units of keys hold four channels.
[[nodiscard]] KVSLIM_HD constexpr status check_key_channels(index_t dim) noexcept {
  if (dim % 4 != 0)
    return fail(errc::invalid_shape, "kvslim: quantized keys need head_dim to be a multiple of 4");
  return check_channels(dim);
}
[[nodiscard]] KVSLIM_HD constexpr status check_residual(index_t residual) noexcept {
  if (residual < 0 || residual > most_residual)
    return fail(errc::invalid_option, "kvslim: residual must be between 0 and 1048576");
  return {};
}

}  // namespace detail

KVSLIM_END_NAMESPACE
