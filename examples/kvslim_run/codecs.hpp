// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// What the files with codecs share: encode, decode and attend of one pair of codecs.

#include "methods.hpp"

#include <kvslim/ops/key_balance.hpp>
#include <kvslim/ops/query_energy.hpp>
#include <kvslim/run/attend.hpp>
#include <kvslim/run/decode.hpp>
#include <kvslim/run/encode.hpp>

#include <algorithm>

namespace example {

/// Asks the index which of the decoded rows' slots are read, and counts what it costs.
pages read_pages(to_store const&, stored&);

template <class Quantizer>
struct codec_of final : codec_method {
  Quantizer policy;

  [[nodiscard]] stored store(to_store const& rows) const override {
    kvslim::cpu const exec;
    auto const& e = rows.view.extents();
    auto const plan = kvslim::make_plan(policy, e, rows.options);
    demand(plan.check());
    std::vector<std::byte> storage(plan.packed_bytes()), scratch(plan.encode_bytes());
    kvslim::packed_cache packed(plan, storage);
    using key = decltype(policy.key_codec());
    std::vector<float> said;
    if constexpr (key::traits.tabled_fit) {  // it is told what the queries say
      if (!rows.window->given())
        throw refusal(std::string(name) + " reads q, the newest queries, which the file has not");
      said.resize(static_cast<std::size_t>(e.rows() * e.head_dim));
      auto const& window = *rows.window;
      if constexpr (requires { key::from; })  // divides keys by factors
        demand(
            kvslim::ops::key_balance(exec, window.newest(window.tokens), rows.view, said.data()));
      else  // chooses channels
        demand(kvslim::ops::query_energy(exec, window.newest(std::min<index_t>(window.tokens, 32)),
                                         e.kv_heads, said.data()));
      packed.bind({.key = said.data()});
    } else if constexpr (key::traits.tabled) {
      packed.bind(
          {read_basis(rows.key_basis, policy.key_codec(), e.kv_heads, e.head_dim),
           read_basis(rows.value_basis, policy.value_codec(), e.kv_heads, e.value_width())});
    }
    stored out;
    out.encode_ms =
        timed([&] { demand(kvslim::encode(exec, plan, rows.view, rows.keep, packed, scratch)); });
    out.bytes = packed.bytes();
    index_t const most = std::max<index_t>(rows.most, 1), all = e.rows() * most;
    out.k.resize(static_cast<std::size_t>(all * e.head_dim));
    out.v.resize(static_cast<std::size_t>(all * e.value_width()));
    out.positions.resize(static_cast<std::size_t>(all));
    scratch.resize(std::max(scratch.size(), kvslim::decode_bytes(packed.layout(), most)));
    auto const shape = [&](index_t dim) {
      return kvslim::rows_shape{e.sequences, e.kv_heads, most, dim};
    };
    out.decode_ms = timed([&] {
      demand(kvslim::decode(exec, packed, kvslim::dense_rows(out.k.data(), shape(e.head_dim)),
                            kvslim::dense_rows(out.v.data(), shape(e.value_width())),
                            out.positions.data(), scratch));
    });
    for (index_t r = 0; r < e.rows(); ++r) {
      out.next_position.push_back(packed.next_position(r / e.kv_heads, r % e.kv_heads));
      for (index_t i = 0; rows.options.biases && i < most; ++i)
        out.bias.push_back(i < packed.raw_row(r).slots ? packed.logit_bias(r, i) : 0.0f);
    }
    if (rows.asked != nullptr) {
      auto const read = rows.index == nullptr ? pages{} : read_pages(rows, out);
      attend(rows, packed, read, out);
    }
    return out;
  }

 private:
  /// The basis of a codec that reads one, if it has the shape that the options say.
  template <class Codec>
  [[nodiscard]] float const* read_basis(queries const* basis, Codec const& codec, index_t heads,
                                        index_t dim) const {
    if constexpr (requires { codec.inner; }) {
      return read_basis(basis, codec.inner, heads, dim);
    } else if constexpr (requires { codec.table_rows(dim); }) {
      return read_basis(basis, codec.table_rows(dim), heads, dim);
    } else {
      return read_basis(basis, index_t{1}, heads, codec.record_floats(dim));
    }
  }
  [[nodiscard]] float const* read_basis(queries const* basis, index_t table_rows, index_t heads,
                                        index_t dim) const {
    if (!basis->given())
      throw refusal(std::string(name) +
                    " reads key_basis and value_basis [layers, kv_heads, rows, head_dim], which "
                    "the file has not");
    if (basis->sequences != policy.opt.layers || basis->heads != heads ||
        basis->tokens != table_rows || basis->head_dim != dim)
      throw refusal(std::string(name) + ": key_basis and value_basis must be [layers, kv_heads, " +
                    std::to_string(table_rows) + ", " + std::to_string(dim) +
                    "] of its options and of K");
    return basis->values.data();
  }
  template <class Packed>
  static void attend(to_store const& rows, Packed const& packed, pages const& read, stored& out) {
    queries const& q = *rows.asked;
    index_t const wide = rows.view.extents().value_width();
    auto const count = static_cast<std::size_t>(q.sequences * q.heads * q.tokens);
    out.out.resize(count * static_cast<std::size_t>(wide));
    out.lse.resize(count);
    std::vector<std::byte> scratch(kvslim::attend_bytes(packed.layout(), q.heads, q.tokens));
    kvslim::attend_request<> const request{
        .q = q.newest(q.tokens),
        .out = kvslim::dense_rows(out.out.data(), {q.sequences, q.heads, q.tokens, wide}),
        .lse = out.lse.data(),
        .positions = rows.asked_positions,
        .visible = {read.counts.empty() ? nullptr : read.begin_end.data(), read.counts.data(),
                    read.most}};
    out.attend_ms = timed([&] { demand(kvslim::attend(kvslim::cpu{}, packed, request, scratch)); });
  }
};

template <class Quantizer, class Describe>
void add_codec(table<codec_method>& all, char const* name, char const* source, char const* what,
               Describe const& describe) {
  add<codec_of<Quantizer>>(all, name, source, what, describe);
}

/// `residual`, of every codec that has an exact tail and no other option.
inline constexpr auto residual_option = [](auto& p) {
  return options{{"residual", &p.opt.residual, "newest tokens kept exact"}};
};

// One file each.
void add_dense(table<codec_method>&);
void add_integers(table<codec_method>&);
void add_kivi(table<codec_method>&);
void add_gear(table<codec_method>&);
void add_xkv(table<codec_method>&);
void add_cskv(table<codec_method>&);
void add_palu(table<codec_method>&);
void add_shadowkv(table<codec_method>&);
void add_matryoshkakv(table<codec_method>&);
void add_eigen_attention(table<codec_method>&);
void add_pruned(table<codec_method>&);
void add_ggml(table<codec_method>&);
void add_floats(table<codec_method>&);
void add_centred(table<codec_method>&);
void add_kvquant(table<codec_method>&);
void add_zipcache(table<codec_method>&);
void add_mikv(table<codec_method>&);
void add_turboquant(table<codec_method>&);
void add_minicache(table<codec_method>&);

}  // namespace example
