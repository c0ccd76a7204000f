// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#define EIGEN_DONT_VECTORIZE  // g++ 12 warns in its own AVX-512 intrinsics (maybe-uninitialized)
#include "compare/calibration.hpp"

#include <Eigen/Eigenvalues>
#include <bit>

namespace example {

namespace {

using Eigen::MatrixXd;

enum class side { raw_key, key, value };

/// One row a token: the channels of `heads` heads of a layer, side by side.
MatrixXd channels(prefilled const& text, kvslim::rope const& rotation, side of, index_t layer,
                  index_t head, index_t heads) {
  auto const view = text.cache(layer, 1, text.tokens());
  index_t const d = view.extents().head_dim;
  MatrixXd out(text.tokens(), heads * d);
  std::vector<float> row(static_cast<std::size_t>(d));
  for (index_t h = 0; h < heads; ++h)
    for (index_t t = 0; t < text.tokens(); ++t) {
      auto const& plane = of == side::value ? view.v : view.k;
      std::copy_n(plane.row(0, head + h, t), d, row.begin());
      if (of == side::raw_key) kvslim::ops::rotate(rotation, d, -t, row.data());
      for (index_t c = 0; c < d; ++c) out(t, h * d + c) = row[static_cast<std::size_t>(c)];
    }
  return out;
}

/// Right singular vectors of `samples` as rows, the largest first.
MatrixXd directions(MatrixXd const& samples, index_t rank) {
  Eigen::SelfAdjointEigenSolver<MatrixXd> const solved(samples.transpose() * samples);
  return solved.eigenvectors().rowwise().reverse().leftCols(rank).transpose();
}

/// [heads][rank][head_dim], of rows that hold the heads side by side.
void store(std::vector<float>& out, MatrixXd const& rows, index_t heads, index_t copies = 1) {
  index_t const d = rows.cols() / heads;
  for (index_t h = 0; h < heads; ++h)
    for (index_t copy = 0; copy < copies; ++copy)
      for (index_t r = 0; r < rows.rows(); ++r)
        for (index_t c = 0; c < d; ++c) out.push_back(static_cast<float>(rows(r, h * d + c)));
}

MatrixXd hadamard(index_t n) {
  MatrixXd out(n, n);
  for (index_t i = 0; i < n; ++i)
    for (index_t j = 0; j < n; ++j)
      out(i, j) = std::popcount(static_cast<std::size_t>(i & j)) % 2 == 0 ? 1.0 : -1.0;
  return out / std::sqrt(static_cast<double>(n));
}

}  // namespace

prefilled const& calibration::text() const {
  if (!text_) text_.emplace(model_, words_);
  return *text_;
}

loaded_tables calibration::cskv(index_t rank, bool in_codes) const {
  auto const& s = text().shape();
  loaded_tables out;
  for (index_t l = 0; l < s.layers; ++l) {
    auto const of = [&](side which) {
      return directions(channels(text(), model_.rope(), which, l, 0, s.kv_heads), rank);
    };
    store(out.key, of(side::raw_key), s.kv_heads, in_codes ? 2 : 1);
    store(out.value, of(side::value), s.kv_heads, in_codes ? 2 : 1);
  }
  return out;
}

loaded_tables calibration::eigen_attention(index_t rank) const {
  auto const& s = text().shape();
  loaded_tables out;
  for (index_t l = 0; l < s.layers; ++l) {
    MatrixXd keys(s.kv_heads * text().tokens(), s.head_dim);
    for (index_t h = 0; h < s.kv_heads; ++h) {
      keys.middleRows(h * text().tokens(), text().tokens()) =
          channels(text(), model_.rope(), side::raw_key, l, h, 1);
      store(out.value, directions(channels(text(), model_.rope(), side::value, l, h, 1), rank), 1);
    }
    MatrixXd const shared = directions(keys, rank);
    for (index_t h = 0; h < s.kv_heads; ++h) store(out.key, shared, 1);
  }
  return out;
}

loaded_tables calibration::palu(index_t heads, index_t rank) const {
  auto const& s = text().shape();
  loaded_tables out;
  for (index_t l = 0; l < s.layers; ++l)
    for (index_t h = 0; h < s.kv_heads; h += heads) {
      // Orthonormal directions: the map back is the transposed map.
      auto const of = [&](side which) -> MatrixXd {
        return hadamard(rank) *
               directions(channels(text(), model_.rope(), which, l, h, heads), rank);
      };
      store(out.key, of(side::raw_key), heads, 2);
      store(out.value, of(side::value), heads, 2);
    }
  return out;
}

loaded_tables calibration::matryoshkakv() const {
  auto const& s = text().shape();
  loaded_tables out;
  for (index_t l = 0; l < s.layers; ++l)
    for (index_t h = 0; h < s.kv_heads; ++h) {
      auto const add = [&](std::vector<float>& to, side which) {
        MatrixXd samples = channels(text(), model_.rope(), which, l, h, 1);
        Eigen::RowVectorXd const mean = samples.colwise().mean();
        samples.rowwise() -= mean;
        store(to, mean, 1);
        store(to, directions(samples, s.head_dim), 1);
      };
      add(out.key, side::key);
      add(out.value, side::value);
    }
  return out;
}

}  // namespace example
