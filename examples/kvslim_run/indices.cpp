// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Every index: one add() each. An index looks at keys as they are stored, which decoded rows are:
// it needs no codec.

#include "methods.hpp"

#include <kvslim/index/landmarks.hpp>
#include <kvslim/index/quest.hpp>
#include <kvslim/run/encode.hpp>
#include <kvslim/run/select_pages.hpp>

namespace example {

namespace {

/// Stores all rows as floats, with what the plan adds to them.
template <class Plan>
std::vector<std::byte> store(Plan const& plan, cells const& rows) {
  demand(plan.check());
  std::vector<std::byte> storage(plan.packed_bytes()), scratch(plan.encode_bytes());
  auto kept = all_of(rows);
  kvslim::packed_cache packed(plan, storage);
  demand(kvslim::encode(kvslim::cpu{}, plan, rows.view(), kept.set(), packed, scratch));
  storage.resize(packed.bytes());
  return storage;
}

template <class Index>
struct index_of final : index_method {
  Index policy;

  [[nodiscard]] pages choose(cells const& rows, queries const& q,
                             kvslim::plan_options storing) const override {
    kvslim::pipeline const pipe{kvslim::dense<float>{}, policy};
    auto const plan = kvslim::make_plan(pipe, rows.extent, storing);
    auto storage = store(plan, rows);
    kvslim::packed_cache packed(plan, storage);
    std::vector<std::byte> scratch(std::max(kvslim::update_index_bytes(plan),
                                            kvslim::select_pages_bytes(plan, q.heads, q.tokens)));
    demand(kvslim::update_index(kvslim::cpu{}, plan, packed, scratch));
    pages out;
    out.bytes = storage.size() -
                store(kvslim::make_plan(kvslim::dense<float>{}, rows.extent, storing), rows).size();
    out.most = kvslim::most_spans(plan);
    auto const all = static_cast<std::size_t>(rows.extent.rows());
    out.begin_end.resize(2 * all * static_cast<std::size_t>(out.most));
    out.counts.resize(all);
    kvslim::attend_request<> request;
    request.q = q.newest(q.tokens);
    out.ms = timed([&] {
      demand(kvslim::select_pages(kvslim::cpu{}, plan, packed, request,
                                  {out.begin_end.data(), out.counts.data(), out.most}, scratch));
    });
    return out;
  }
};

}  // namespace

table<index_method> indices() {
  table<index_method> all;
  add<index_of<kvslim::quest<>>>(
      all, "quest", "arXiv:2406.10774", "pages by the bounds of their keys", [](auto& p) {
        return options{{"budget", tokens_to{&p.opt.budget}, "tokens read of each KV head (paper)"},
                       {"page", &p.opt.page, "tokens of a page (authors)"},
                       {"rule", choice(p.opt.rule, {"kernel", "evaluation"}), "of the authors"}};
      });
  add<index_of<kvslim::landmarks<>>>(
      all, "landmarks", "arXiv:2410.21465", "chunks by the means of their keys", [](auto& p) {
        return options{
            {"budget", tokens_to{&p.opt.budget}, "tokens chosen of each KV head (authors)"},
            {"page", &p.opt.page, "tokens of a chunk (authors)"},
            {"local", &p.opt.local, "newest chunks, always read (authors)"},
            {"outliers", &p.opt.outliers, "chunks that their mean serves worst (authors)"}};
      });
  return all;
}

}  // namespace example
