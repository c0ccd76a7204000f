// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/exec/cuda_block.cuh>
#include <kvslim/run/encode_groups.cuh>
#include <kvslim/run/select.cuh>

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
  index_t readers;                        // threads that merge rows
};

/// other_floats: of each thread that merges, one of `threads` at most; 0 where nothing is merged.
template <class Codec>
[[nodiscard]] encode_cut cut_encode(codec_sizes const& sizes, index_t dim, index_t other_floats,
                                    index_t threads, index_t most_tokens) noexcept {
  constexpr index_t limit = most_shared_bytes / static_cast<index_t>(sizeof(float));
  index_t const tokens = sizes.block_tokens;
  encode_cut cut{};
  cut.stretch = max(tokens, run_tokens - run_tokens % tokens);
  index_t const fit = (limit - other_floats) / dim;
  cut.batch = Codec::traits.whole_blocks ? cut.stretch : min(cut.stretch, fit);
  if (cut.batch > fit) cut.batch = cut.stretch = tokens;
  cut.in_shared = cut.batch <= fit;
  cut.blocks = cut.in_shared ? max(1, div_up(most_tokens, cut.stretch)) : 1;
  cut.readers = cut.in_shared
                    ? readers_in(limit - cut.batch * dim, other_floats, min(threads, cut.batch))
                    : 1;
  cut.shared_floats = cut.in_shared ? cut.batch * dim + cut.readers * other_floats : 0;
  return cut;
}

/// Encodes K or V of every row: warps of a block stage tokens each, then encode them together.
template <bool Keys, int Warps, class Plan, class Cells, class Packed>
KVSLIM_DETAIL_KERNEL void __launch_bounds__(Warps* warp_threads,
                                            Plan::has_merger ? 2 : blocks_beside<Warps>)
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
      bad = stage_slots<Keys, Warps>(plan, cells, keep, entry, biases, half, first, n, rows, other,
                                     cut.readers) ||
            bad;
      team::synchronize();
      encode_slots<team>(half, first, n, rows);
      team::synchronize();
    }
  }
  if (bad) set_failed(packed, r, errc::non_finite);
}

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
                                 Keys ? e.head_dim : e.value_width(), reader_floats(plan),
                                 warps_of<codec> * warp_threads, plan.most_kept());
    cut.staging_floats = plan.staging_floats();
    if constexpr (codec::traits.fitted)
      if (auto const s = launch_fit<Keys>(exec, plan, cells, keep, packed, w.staging); !s) return s;
    constexpr int warps = warps_of<codec>;
    return launch(exec,
                  {e.rows() * cut.blocks, warps * warp_threads,
                   cut.shared_floats * static_cast<index_t>(sizeof(float))},
                  encode_kernel<Keys, warps, Plan, Cells, Packed>, plan, cells, keep, packed,
                  w.staging, cut);
  } else {
    return launch_encode_groups<Keys>(exec, plan, cells, keep, packed, w.staging);
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

/// encode() on a stream: the same stored bytes, but for numbers that sum over tokens or channels
/// (directions, coordinates), which may differ by rounding. Blocks fit a state to a row each, or a
/// share of a row's directions and of its group's tokens (low-rank codecs, three launches a
/// round), then others encode 32 tokens each (more where the codec's blocks hold more), by four
/// warps where the codec knows how, by one elsewhere; a token that is merged is read by one thread.
/// Where rows share blocks, there are as many blocks of threads as rows.
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
