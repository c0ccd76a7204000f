// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/exec/cuda_block.cuh>
#include <kvslim/run/device_row.cuh>
#include <kvslim/run/encode.hpp>
#include <kvslim/run/select.cuh>
#include <kvslim/run/stage_octets.cuh>

KVSLIM_BEGIN_CUDA_NAMESPACE

inline constexpr int row_threads = 128;

/// One past the newest position of a row, by all threads of a block: everyone's share.
template <class Cells>
[[nodiscard]] __device__ std::int32_t next_position_share(Cells const& cells, index_t s,
                                                          index_t h) {
  if (cells.in_text_order()) return next_position_of(cells, s, h);
  std::int32_t next = 0;
  for (index_t cell = threadIdx.x; cell < cells.length(s, h); cell += row_threads)
    if (cells.state(s, h, cell) != token_state::padding && cells.position(s, h, cell) >= next)
      next = cells.position(s, h, cell) + 1;
  return next;
}
template <class Packed>
[[nodiscard]] __device__ std::int32_t next_position_share(packed_cells<Packed> const& cells,
                                                          index_t s, index_t h) {
  return next_position_of(cells, s, h);
}

/// The largest of every thread's number, for all threads of a block of row_threads.
[[nodiscard]] __device__ inline std::int32_t largest_of_block(std::int32_t x) {
  __shared__ std::int32_t shares[row_threads / warp_threads];
  auto const larger = [](std::int32_t a, std::int32_t b) { return a > b ? a : b; };
  x = over_warp(x, larger);
  __syncthreads();
  if (threadIdx.x % warp_threads == 0) shares[threadIdx.x / warp_threads] = x;
  __syncthreads();
  for (std::int32_t const share : shares) x = larger(x, share);
  return x;
}

/// One block per row: looks at its list and writes the row's entry, but for the offset, and its
/// verdict: 0 or an errc. A list that cannot be encoded leaves an empty row.
template <class Plan, class Cells, class Packed>
KVSLIM_DETAIL_KERNEL void __launch_bounds__(row_threads)
    make_rows_kernel(Plan plan, Cells cells, keep_set keep, Packed packed, std::uint8_t* verdicts) {
  auto const& e = plan.extents();
  index_t const r = blockIdx.x, s = r / e.kv_heads, h = r % e.kv_heads, count = keep.count(r);
  std::int32_t const next = largest_of_block(next_position_share(cells, s, h));
  auto verdict = static_cast<std::int32_t>(errc::ok);
  if (keep.begins[r] < 0 || count < 0 || count > e.tokens) {
    verdict = static_cast<std::int32_t>(errc::invalid_shape);
  } else {
    auto const differs = [&](row_group const& group, index_t i) {
      index_t const first = group.first_row(e, r);
      return keep.count(first) != count ||
             keep.cells[keep.begins[first] + i] != keep.cells[keep.begins[r] + i];
    };
    auto const& layout = packed.layout();
    for (index_t i = threadIdx.x; i < count; i += row_threads) {
      if (fault_of_entry(plan, packed.layout(), cells, keep, r, i, next) != nullptr)
        verdict = static_cast<std::int32_t>(errc::invalid_shape);
      else if (layout.grouped() &&
               (differs(group_of(layout.key), i) || differs(group_of(layout.value), i)))
        verdict = static_cast<std::int32_t>(errc::unsupported);
    }
  }
  verdict = largest_of_block(verdict);
  if (threadIdx.x != 0) return;
  packed.raw_row(r) = make_row(plan, packed.layout(), keep, r, verdict == 0 ? count : 0, next);
  verdicts[r] = static_cast<std::uint8_t>(verdict);
}

/// One block: gives every row its place, a chunk of rows at a time, and writes the header. Rows
/// behind the end of the storage are left without room; rows that share blocks fail together.
template <class Packed>
KVSLIM_DETAIL_KERNEL void __launch_bounds__(block_threads)
    place_packed_kernel(Packed packed, packed_header header, std::uint8_t const* verdicts,
                        index_t room) {
  auto const& layout = packed.layout();
  auto const& e = layout.extent;
  index_t const rows = e.rows();
  index_t begin = layout.table_bytes(), used = begin, cut = rows;  // end and first row without room
  for (index_t chunk = 0; chunk < rows; chunk += block_threads) {
    index_t const r = chunk + threadIdx.x;
    index_t const bytes = r < rows ? layout.parts(packed.raw_row(r).capacity, r).bytes : 0;
    auto const sum = block_scan(bytes);
    index_t const at = begin + sum.before;
    begin += sum.total;
    if (r >= rows) continue;
    packed_row& x = packed.raw_row(r);
    bool const fits = at + bytes <= room;
    x.offset = fits ? at : layout.table_bytes();
    if (fits) {
      used = at + bytes;
    } else {
      x.capacity = 0;
      cut = min(cut, r);
    }
  }
  used = over_block(used, [](index_t a, index_t b) { return max(a, b); });
  cut = over_block(cut, [](index_t a, index_t b) { return min(a, b); });
  for (index_t r = threadIdx.x; r < rows; r += block_threads) {
    auto verdict = static_cast<std::int32_t>(errc::ok);
    auto const look = [&](row_group const& group) {
      for (index_t m = 0; m < group.size(); ++m) {
        index_t const other = group.member_row(e, group.first_row(e, r), m);
        if (verdicts[other] != 0) verdict = verdicts[other];
        if (other >= cut) verdict = static_cast<std::int32_t>(errc::buffer_too_small);
      }
    };
    look(group_of(layout.key));
    look(group_of(layout.value));
    if (verdict == 0) continue;
    packed_row& x = packed.raw_row(r);
    x.failed = verdict;
    x.slots = x.key_coded = x.value_coded = 0;
  }
  if (threadIdx.x != 0) return;
  header.used_bytes = used;
  packed.raw_header() = header;
}

/// Sides of every row: `blocks` blocks of row_threads each, every thread one slot in so many.
template <class Plan, class Cells, class Packed>
KVSLIM_DETAIL_KERNEL void __launch_bounds__(row_threads)
    encode_sides_kernel(Plan plan, Cells cells, keep_set keep, Packed packed, index_t blocks) {
  index_t const r = blockIdx.x / blocks, first = blockIdx.x % blocks * row_threads + threadIdx.x;
  encode_sides(plan, cells, keep, packed, r, first, blocks * row_threads);
}

/// How blocks share the slots of a row: each takes `stretch` of them in turn, which hold whole
/// blocks of the codec, `batch` at a time. Rows are staged in shared memory or, where a codec's
/// block is too large for it, in the row's part of the workspace; then there is one block to a row.
struct encode_cut {
  index_t stretch, batch, blocks;
  bool in_shared;
  index_t shared_floats, staging_floats;  // of a block, of a row
};

/// Warps of such a block; rows that are merged are read by one.
template <class Plan, class Codec>
inline constexpr int encode_warps = Plan::has_merger ? 1 : warps_of<Codec>;

template <class Codec>
[[nodiscard]] encode_cut cut_encode(codec_sizes const& sizes, index_t dim, index_t other_floats,
                                    index_t most_tokens) noexcept {
  constexpr index_t limit = most_shared_bytes / static_cast<index_t>(sizeof(float));
  index_t const tokens = sizes.block_tokens;
  encode_cut cut{};
  cut.stretch = max(tokens, run_tokens - run_tokens % tokens);
  index_t const fit = (limit - other_floats) / dim;
  cut.batch = Codec::traits.whole_blocks ? cut.stretch : min(cut.stretch, fit);
  if (cut.batch > fit) cut.batch = cut.stretch = tokens;
  cut.in_shared = cut.batch <= fit;
  cut.blocks = cut.in_shared ? max(1, div_up(most_tokens, cut.stretch)) : 1;
  cut.shared_floats = cut.in_shared ? cut.batch * dim + other_floats : 0;
  return cut;
}

inline constexpr int stage_loads = 8;  ///< of a lane before it stores

/// Stages slots [first, first + n) of row r as float rows; true if a lane met a value that the
/// codec cannot hold.
template <bool Keys, class Plan, class Cells, class Half>
[[nodiscard]] __device__ bool stage_rows(Plan const& plan, Cells const& cells, keep_set const& keep,
                                         packed_row const& entry, float* biases, Half const& half,
                                         index_t first, index_t n, float* rows, float* other) {
  auto const& e = plan.extents();
  index_t const r = half.row, s = r / e.kv_heads, h = r % e.kv_heads, dim = half.dim;
  int const lane = static_cast<int>(threadIdx.x) % warp_threads;
  bool bad = false;
  if constexpr (Plan::has_merger) {
    for (index_t i = 0; i < n && lane == 0; ++i) {
      float* const mine = rows + i * dim;
      auto const to = entry.next_position - static_cast<std::int32_t>(entry.slots - first - i);
      float const bias = read_kept(plan, cells, keep, r, first + i, to, Keys ? mine : other,
                                   Keys ? other : mine, other + plan.wide());
      if (Keys && biases != nullptr) biases[first + i] = bias;
    }
    __syncwarp();
    float const limit = half.codec.limit();
    for (index_t i = lane; i < n * dim; i += warp_threads) bad = bad || !(fabsf(rows[i]) <= limit);
  } else {
    // Rotation can move all of a pair's length into one channel.
    float const limit = half.codec.limit() * (Plan::has_mover && Keys ? 0.70710677f : 1.0f);
    std::int32_t const* const kept = keep.cells + keep.begins[r] + first;
    auto const row_of = [&](index_t i) {
      if constexpr (Keys)
        return cells.key(s, h, kept[i]);
      else
        return cells.value(s, h, kept[i]);
    };
    bool const staged = stage_by_octets(row_of, n, dim, limit, rows, bad);
    for (index_t i = 0; i < n && !staged; i += stage_loads)
      for (index_t d = lane; d < dim; d += warp_threads) {
        float x[stage_loads];
        unrolled<stage_loads>([&](int j) { x[j] = i + j < n ? row_of(i + j)[d] : 0.0f; });
        unrolled<stage_loads>([&](int j) {
          bad = bad || !(fabsf(x[j]) <= limit);
          if (i + j < n) rows[(i + j) * dim + d] = x[j];
        });
      }
    __syncwarp();
    if constexpr (Plan::has_mover && Keys) {
      for (index_t i = lane; i < n; i += warp_threads)
        plan.template stage<position_tag>().move(
            rows + i * dim, dim, cells.position(s, h, kept[i]),
            entry.next_position - static_cast<std::int32_t>(entry.slots - first - i));
      __syncwarp();
    }
  }
  return bad;
}

/// Encodes K or V of every row: warps of a block stage tokens each, then encode them together.
template <bool Keys, int Warps, class Plan, class Cells, class Packed>
KVSLIM_DETAIL_KERNEL void __launch_bounds__(Warps* warp_threads, blocks_beside<Warps>)
    encode_kernel(Plan plan, Cells cells, keep_set keep, Packed packed, float* staging,
                  encode_cut cut) {
  KVSLIM_DETAIL_DYNAMIC_SHARED(shared);
  using team = warp_team<Warps>;
  index_t const r = blockIdx.x / cut.blocks;
  float* const mine = staging + r * cut.staging_floats;
  float* const rows = cut.in_shared ? shared : mine;
  float* const other = cut.in_shared ? rows + cut.batch * (Keys ? plan.extents().head_dim
                                                                : plan.extents().value_width())
                                     : mine + packed.layout().block_floats();
  auto const half = half_of<Keys>(packed, r);
  packed_row const& entry = packed.raw_row(r);
  float* const biases = Keys && Plan::has_merger ? packed.biases(r) : nullptr;
  index_t const slots = entry.slots;
  bool bad = false;
  for (index_t begin = blockIdx.x % cut.blocks * cut.stretch; begin < slots;
       begin += cut.blocks * cut.stretch) {
    index_t const end = min(slots, begin + cut.stretch);
    for (index_t first = begin; first < end; first += cut.batch) {
      index_t const n = min(cut.batch, end - first);
      index_t const share = div_up(n, team::warps), from = team::warp() * share;
      if (from < n)
        bad = stage_rows<Keys>(plan, cells, keep, entry, biases, half, first + from,
                               min(share, n - from), rows + from * half.dim, other) ||
              bad;
      team::synchronize();
      encode_slots<team>(half, first, n, rows);
      team::synchronize();
    }
  }
  if (bad) set_failed(packed, r, errc::non_finite);
}

inline constexpr int fit_threads = 256;

/// How a fit reads the kept tokens of a row: one thread by itself, or all threads of a block of
/// fit_threads a few tokens at a time, which lie in `staged` [batch, dim].
template <bool Keys, class Plan, class Cells, class Half>
struct kept_rows {
  Plan const& plan;
  Cells const& cells;
  keep_set const& keep;
  packed_row const& entry;
  Half const& half;
  float* other;  // what merging needs, of one warp
  float* staged;
  index_t batch;

  __device__ void operator()(index_t, index_t i, float* out) const {
    float* const rest = Plan::has_merger ? other : nullptr;
    auto const to = entry.next_position - static_cast<std::int32_t>(entry.slots - i);
    static_cast<void>(read_kept(plan, cells, keep, half.row, i, to, Keys ? out : rest,
                                Keys ? rest : out, other + plan.wide()));
  }
  template <class Use>
  __device__ void by_block(index_t tokens, Use const& use) const {
    constexpr index_t warps = Plan::has_merger ? 1 : fit_threads / warp_threads;
    index_t const warp = threadIdx.x / warp_threads;
    for (index_t first = 0; first < tokens; first += batch) {
      index_t const n = min(batch, tokens - first), share = div_up(n, warps), begin = warp * share;
      if (begin < n)
        static_cast<void>(stage_rows<Keys>(plan, cells, keep, entry, nullptr, half, first + begin,
                                           min(share, n - begin), staged + begin * half.dim,
                                           other));
      __syncthreads();
      use(staged, first, n);
      __syncthreads();
    }
  }
};

/// Fits the state of K or V of every row: one block to a row.
template <bool Keys, class Plan, class Cells, class Packed>
KVSLIM_DETAIL_KERNEL void __launch_bounds__(fit_threads)
    fit_kernel(Plan plan, Cells cells, keep_set keep, Packed packed, float* staging,
               index_t staging_floats, index_t batch) {
  KVSLIM_DETAIL_DYNAMIC_SHARED(shared);
  index_t const r = blockIdx.x;
  packed_row const& entry = packed.raw_row(r);
  if (entry.failed != 0) return;
  float* const mine = staging + r * staging_floats;
  float* const other = mine + packed.layout().block_floats();
  auto const half = half_of<Keys>(packed, r);
  using codec = typename std::remove_cvref_t<decltype(half)>::codec_type;
  kept_rows<Keys, Plan, Cells, std::remove_cvref_t<decltype(half)>> const read{
      plan, cells, keep, entry, half, other, batch > 0 ? shared : mine, max(1, batch)};
  site whole = half.whole();
  whole.held = entry.slots;
  warp_codec<codec>::fit(half.codec, read, half.coded, whole, half.state, other + 4 * plan.wide());
}

/// For codecs that share blocks between rows: one thread per row.
template <bool Keys, class Plan, class Cells, class Packed>
struct encode_body {
  Plan plan;
  Cells cells;
  keep_set keep;
  Packed packed;
  float* staging;
  index_t floats;
  __device__ void operator()(index_t r) const {
    if (packed.raw_row(r).failed == 0)
      encode_half<Keys>(plan, cells, keep, staging + r * floats, packed, r);
  }
};

template <bool Keys, class Plan, class Cells, class Packed>
[[nodiscard]] status launch_encode(cuda exec, Plan const& plan, Cells const& cells,
                                   keep_set const& keep, Packed const& packed,
                                   encode_space const& w) {
  using codec =
      std::conditional_t<Keys, typename Packed::key_codec_type, typename Packed::value_codec_type>;
  auto const& e = plan.extents();
  if constexpr (warp_encodable<codec>) {
    auto const layout = plan.layout();
    auto cut = cut_encode<codec>(Keys ? layout.key_sizes(e.tokens) : layout.value_sizes(e.tokens),
                                 Keys ? e.head_dim : e.value_width(),
                                 Plan::has_merger ? 4 * plan.wide() : 0, plan.most_kept());
    cut.staging_floats = plan.staging_floats();
    if constexpr (codec::traits.fitted) {
      constexpr auto each = static_cast<index_t>(sizeof(float));
      index_t const row = (Keys ? e.head_dim : e.value_width()) * each,
                    batch = min(run_tokens, most_shared_bytes / row);
      if (auto const s = launch(exec, {e.rows(), fit_threads, batch * row},
                                fit_kernel<Keys, Plan, Cells, Packed>, plan, cells, keep, packed,
                                w.staging, plan.staging_floats(), batch);
          !s)
        return s;
    }
    constexpr int warps = encode_warps<Plan, codec>;
    return launch(exec,
                  {e.rows() * cut.blocks, warps * warp_threads,
                   cut.shared_floats * static_cast<index_t>(sizeof(float))},
                  encode_kernel<Keys, warps, Plan, Cells, Packed>, plan, cells, keep, packed,
                  w.staging, cut);
  } else {
    return launch_for_each(exec, e.rows(),
                           encode_body<Keys, Plan, Cells, Packed>{
                               plan, cells, keep, packed, w.staging, plan.staging_floats()});
  }
}

/// The steps of encode on a stream.
template <class Plan, class Cells, class Packed>
[[nodiscard]] status run_encode(cuda exec, Plan const& plan, Cells const& cells,
                                keep_set const& keep, Packed const& packed, encode_space const& w) {
  auto const& e = plan.extents();
  auto const room = static_cast<index_t>(plan.packed_bytes());
  if (packed.size() < plan.packed_bytes())
    return fail(errc::buffer_too_small, "kvslim: the packed storage is below plan.packed_bytes()");
  if (auto const s = fill_bytes(exec, packed.storage(), 0, room); !s) return s;
  if (auto const s = launch(exec, {e.rows(), row_threads}, make_rows_kernel<Plan, Cells, Packed>,
                            plan, cells, keep, packed, w.good);
      !s)
    return s;
  if (auto const s = launch(exec, {1, block_threads}, place_packed_kernel<Packed>, packed,
                            packed.layout().header(), w.good, room);
      !s)
    return s;
  index_t const blocks = max(1, div_up(plan.most_kept(), row_threads));
  if (auto const s =
          launch(exec, {e.rows() * blocks, row_threads}, encode_sides_kernel<Plan, Cells, Packed>,
                 plan, cells, keep, packed, blocks);
      !s)
    return s;
  if (auto const s = launch_encode<true>(exec, plan, cells, keep, packed, w); !s) return s;
  if constexpr (Packed::layout_type::shares_keys)
    return {};
  else
    return launch_encode<false>(exec, plan, cells, keep, packed, w);
}

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

/// encode() on a stream: the same stored bytes. Blocks fit a state to a row each, then others
/// encode 32 tokens each (more where the codec's blocks hold more), by four warps where the codec
/// knows how and nothing is merged, by one elsewhere; codecs that share blocks between rows take
/// one thread per row.
///
/// Requires: storage of plan.packed_bytes(). What only device memory can tell goes to a word per
/// row (packed_row::failed) once the stream has run: invalid_shape (a list that cannot be encoded),
/// unsupported (rows that share blocks and keep different tokens), buffer_too_small (more tokens
/// than planned) leave an empty row; non_finite says that the row holds such a value. Nothing
/// synchronises. Returns: as on the CPU for what the host can see, unsupported (a grid beyond
/// CUDA's), cuda.
template <class Plan, class Cache, class Packed>
status encode(cuda exec, Plan const& plan, Cache const& cache, keep_set const& keep,
              Packed const& packed, workspace scratch) {
  static_assert(
      std::same_as<typename Cache::space, cuda_space>,
      "kvslim: a CUDA executor was given a host view: view device memory with kvslim::cuda_space");
  static_assert(std::same_as<typename Packed::space, cuda_space>,
                "kvslim: a CUDA executor was given host storage: bind device memory with "
                "kvslim::cuda_space{}");
  if (auto const s = detail::check_encode(plan, cache, keep, packed); !s) return s;
  if constexpr (requires { cache.lengths; })
    if (auto const s = detail::check_cache(cache); !s) return s;
  if (auto const s = detail::check_workspace(scratch, plan.encode_bytes()); !s) return s;
  detail::carver carve(scratch.data);
  return detail::run_encode(exec, plan, cache, keep, packed, plan.carve_encode(carve));
}

/// compress() on a stream: select and encode in one workspace of plan.workspace_bytes().
template <class Plan, class Cache, class Evidence, class Packed>
status compress(cuda exec, Plan const& plan, Cache const& cache, Evidence const& evidence,
                Packed const& packed, workspace scratch) {
  static_assert(
      std::same_as<typename Cache::space, cuda_space>,
      "kvslim: a CUDA executor was given a host view: view device memory with kvslim::cuda_space");
  if (auto const s = plan.check(); !s) return s;
  if (auto const s = detail::check_workspace(scratch, plan.workspace_bytes()); !s) return s;
  auto keep = plan.keep(scratch);
  workspace const rest{scratch.data + plan.keep_bytes(), scratch.bytes - plan.keep_bytes()};
  if (auto const s = detail::check_encode(plan, cache, keep, packed); !s) return s;
  if (packed.size() < plan.packed_bytes())
    return detail::fail(errc::buffer_too_small,
                        "kvslim: the packed storage is below plan.packed_bytes()");
  if (auto const s = select(exec, plan, cache, evidence, keep, rest); !s) return s;
  return encode(exec, plan, cache, keep, packed, rest);
}

KVSLIM_END_NAMESPACE
