// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "compare/entries.hpp"

namespace example {

using namespace kvslim;

void add_evicted(std::vector<method>& list, model const& m, snapkv const& snap,
                 std::shared_ptr<gates const> const& gated) {
  rerotate const close_gaps{m.rope()};
  row_group const heads{.sequences = 1, .kv_heads = m.shape().kv_heads};
  auto const add = [&](char const* name, auto make, session_options options = {}) {
    list.push_back(entry(name, family::evicted, make, options));
  };
  add("StreamingLLM 50 %", [](index_t t) { return pipeline{streaming_llm{}, keep(0.5, t)}; });
  add("StreamingLLM 25 %", [](index_t t) { return pipeline{streaming_llm{}, keep(0.25, t)}; });
  add("StreamingLLM 50 % rerotated", [=](index_t t) {
    return pipeline{streaming_llm{}, keep(0.5, t), close_gaps};
  });
  add("Random 50 %", [](index_t t) { return pipeline{random_scores{}, keep(0.5, t)}; });
  add("Random 25 %", [](index_t t) { return pipeline{random_scores{}, keep(0.25, t)}; });
  add("Knorm 50 %", [](index_t t) { return pipeline{knorm{}, keep(0.5, t)}; });
  add("KeyDiff 50 %", [](index_t t) { return pipeline{keydiff{}, keep(0.5, t)}; });
  add("KeyDiff 50 %, by chunks", [](index_t t) {
    return pipeline{chunked{keydiff{}, {.size = 256}}, keep(0.5, t)};
  });
  add("LagKV 50 %", [](index_t t) { return pipeline{lagkv{}, keep(0.5, t)}; });
  add("CurDKV 50 %", [](index_t t) { return pipeline{curdkv{}, keep(0.5, t)}; });
  add("FINCH 50 %", [](index_t t) { return pipeline{finch{}, keep(0.5, t)}; });
  // The table of frequencies is the model's, which outlives the rows.
  expected_attention<> const expected{{.rotation = m.rope()}};
  add("Expected Attention 50 %",
      [=](index_t t) {
        return pipeline{expected, keep(0.5, t)};
      },
      {.raw = true});
  add("KVzip 50 %", [](index_t t) { return pipeline{kvzip{}, keep(0.5, t)}; }, {.repeats = true});
  add("KVzip 25 %", [](index_t t) { return pipeline{kvzip{}, keep(0.25, t)}; }, {.repeats = true});
  if (gated != nullptr)
    add("Fast KVzip 50 %",
        [](index_t t) {
          return pipeline{fastkvzip{}, keep(0.5, t)};
        },
        {.gated = gated});
  add("SnapKV 50 %", [=](index_t t) { return pipeline{snap, keep(0.5, t)}; });
  add("SnapKV 25 %", [=](index_t t) { return pipeline{snap, keep(0.25, t)}; });
  add("SnapKV 12.5 %", [=](index_t t) { return pipeline{snap, keep(0.125, t)}; });
  add("SnapKV 50 % per layer", [=](index_t t) {
    return pipeline{shared{snap, heads}, keep(0.5, t)};
  });
  add("SnapKV 25 % per layer", [=](index_t t) {
    return pipeline{shared{snap, heads}, keep(0.25, t)};
  });
}

}  // namespace example
