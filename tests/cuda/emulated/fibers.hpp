// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// The CUDA threads of a block as fibers of one thread of the CPU: barriers cost a switch each, and
// ThreadSanitizer is told that nothing but a barrier orders them, so that a missing one is a race.

#include <sys/mman.h>
#include <ucontext.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__SANITIZE_THREAD__)
#define KVSLIM_EMULATED_TSAN
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define KVSLIM_EMULATED_TSAN
#endif
#endif
#if defined(KVSLIM_EMULATED_TSAN)
extern "C" {
void* __tsan_get_current_fiber(void);
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* at);
void __tsan_release(void* at);
}
#endif
#if defined(__SANITIZE_ADDRESS__)
#define KVSLIM_EMULATED_ASAN
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define KVSLIM_EMULATED_ASAN
#endif
#endif
#if defined(KVSLIM_EMULATED_ASAN)
extern "C" {
void __sanitizer_start_switch_fiber(void** save, void const* bottom, std::size_t size);
void __sanitizer_finish_switch_fiber(void* save, void const** bottom, std::size_t* size);
}
#endif

namespace emulated {

struct index3 {
  unsigned x = 0, y = 0, z = 0;
};

[[noreturn]] inline void die(char const* what) {
  std::fprintf(stderr, "emulated: %s\n", what);
  std::abort();
}

class thread_team;
class block_cluster;

/// Threads that wait for each other: a block, or one of its warps. The emulator's own words are
/// relaxed atomics, so that they order nothing.
struct barrier {
  explicit barrier(unsigned threads) : size(threads), values(threads), words(threads) {}

  unsigned size;
  std::atomic<unsigned> arrived = 0, generation = 0;
  std::atomic<int> line = 0, any = 0, all_any = 0;
  char order[2] = {};          // what a sanitizer takes for the lock, in turn
  std::vector<double> values;  // exchanged
  std::vector<std::array<unsigned, 6>> words;
};

struct thread_state {
  index3 thread, block, block_size, grid_size;
  barrier *block_barrier = nullptr, *warp_barrier = nullptr;
  thread_team* team = nullptr;
  block_cluster* cluster = nullptr;
  unsigned rank = 0;  // of the block, in its cluster
  ucontext_t context = {};
  void* place[5] = {};  // where it left off, once it has begun
  bool begun = false;
  void* sanitizer = nullptr;
  void* fake_stack = nullptr;
  std::byte* stack = nullptr;
  std::atomic<bool> done = false;
  std::atomic<barrier*> waits_at = nullptr;
  std::atomic<unsigned> waits_since = 0;  // the barrier's generation
  void* met = nullptr;                    // the last atomic, before the next fence
  bool fenced = false;                    // since the last atomic

  [[nodiscard]] unsigned lane() const { return thread.x % 32; }
  void wait(barrier& b, int line);
  void synchronize_block(int line) { wait(*block_barrier, line); }
  void synchronize_warp() { wait(*warp_barrier, 0); }
  /// An atomic orders nothing by itself: what is before a fence is seen by those who come to the
  /// same atomic later and then to a fence. ThreadSanitizer knows no fences and is told.
  void fence() {
#if defined(KVSLIM_EMULATED_TSAN)
    if (met != nullptr) __tsan_acquire(met);
    met = nullptr;
    fenced = true;
#else
    std::atomic_thread_fence(std::memory_order_seq_cst);
#endif
  }
  void before_atomic([[maybe_unused]] void* target) {
#if defined(KVSLIM_EMULATED_TSAN)
    if (fenced) __tsan_release(target);
    fenced = false;
#endif
  }
  void after_atomic(void* target) { met = target; }
  /// All threads end a block together.
  void finish() {
    wait(*warp_barrier, -1);
    wait(*block_barrier, -1);
  }
  int block_or(int mine, int line) {
    if (mine != 0) block_barrier->any.store(1, std::memory_order_relaxed);
    wait(*block_barrier, line);
    int const any = block_barrier->any.load(std::memory_order_relaxed);
    wait(*block_barrier, line);
    block_barrier->any.store(0, std::memory_order_relaxed);
    wait(*block_barrier, line);
    return any;
  }
  template <class T>
  T exchange(T mine, unsigned from) {
    static_assert(sizeof(T) <= sizeof(double) && std::is_trivially_copyable_v<T>);
    if (from >= warp_barrier->size) die("a shuffle reads a lane that does not exist");
    std::memcpy(&warp_barrier->values[lane()], &mine, sizeof mine);
    wait(*warp_barrier, 0);
    std::memcpy(&mine, &warp_barrier->values[from], sizeof mine);
    wait(*warp_barrier, 0);
    return mine;
  }
  /// Calls use(words of all lanes) with six words of every lane of a whole warp.
  template <class Use>
  void together(std::array<unsigned, 6> const& mine, Use const& use) {
    if (warp_barrier->size != 32) die("a matrix instruction needs a whole warp");
    warp_barrier->words[lane()] = mine;
    wait(*warp_barrier, 0);
    use(warp_barrier->words);
    wait(*warp_barrier, 0);
  }
  unsigned ballot(bool mine) {
    double const x = mine ? 1.0 : 0.0;
    std::memcpy(&warp_barrier->values[lane()], &x, sizeof x);
    wait(*warp_barrier, 0);
    unsigned bits = 0;
    for (unsigned i = 0; i < warp_barrier->size; ++i)
      bits |= warp_barrier->values[i] != 0.0 ? 1u << i : 0u;
    wait(*warp_barrier, 0);
    return bits;
  }
};

inline thread_local std::atomic<thread_state*> running_thread = nullptr;
inline thread_local char launched;  // what a sanitizer takes for the start of a launch
inline thread_state* running() { return running_thread.load(std::memory_order_relaxed); }

inline constexpr std::size_t stack_bytes = std::size_t{256} << 10, guard_bytes = 4096;

/// Stacks of a block's threads, each above a guard page; kept for the next launch.
class stack_set {
 public:
  static constexpr std::size_t most_threads = 1024;

  static std::unique_ptr<stack_set> take() {
    std::lock_guard const lock(mutex_);
    if (free_.empty()) return std::unique_ptr<stack_set>(new stack_set);
    auto set = std::move(free_.back());
    free_.pop_back();
    return set;
  }
  static void give(std::unique_ptr<stack_set> set) {
    std::lock_guard const lock(mutex_);
    free_.push_back(std::move(set));
  }
  [[nodiscard]] std::byte* stack(unsigned thread) { return slab_ + thread * stack_bytes; }

 private:
  stack_set() {
    void* const memory = mmap(nullptr, most_threads * stack_bytes, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) die("no memory for stacks");
    slab_ = static_cast<std::byte*>(memory);
    for (std::size_t i = 0; i < most_threads; ++i)
      mprotect(slab_ + i * stack_bytes, guard_bytes, PROT_NONE);
  }

  static inline std::mutex mutex_;
  static inline std::vector<std::unique_ptr<stack_set>> free_;
  std::byte* slab_ = nullptr;
};

/// The fibers of one block after another.
class thread_team {
 public:
  thread_team(unsigned threads, std::function<void(thread_state&)> body)
      : body_(std::move(body)), threads_(threads), block_(threads), live_(threads) {
    for (unsigned first = 0; first < threads; first += 32)
      warps_.emplace_back(threads - first < 32 ? threads - first : 32);
    stacks_ = stack_set::take();
    for (unsigned i = 0; i < threads; ++i) {
      thread_state& t = threads_[i];
      t.thread.x = i;
      t.block_barrier = &block_;
      t.warp_barrier = &warps_[i / 32];
      t.team = this;
      t.stack = stacks_->stack(i);
#if defined(KVSLIM_EMULATED_TSAN)
      t.sanitizer = __tsan_create_fiber(0);
#endif
      getcontext(&t.context);
      t.context.uc_stack.ss_sp = t.stack + guard_bytes;
      t.context.uc_stack.ss_size = stack_bytes - guard_bytes;
      t.context.uc_link = nullptr;
      makecontext(&t.context, &thread_team::enter, 0);
    }
  }
  ~thread_team() {
#if defined(KVSLIM_EMULATED_TSAN)
    // Not kept: what a barrier costs grows with all that there are.
    for (thread_state& t : threads_) __tsan_destroy_fiber(t.sanitizer);
#endif
    stack_set::give(std::move(stacks_));
  }
  thread_team(thread_team const&) = delete;
  thread_team& operator=(thread_team const&) = delete;

  void run() {
#if defined(KVSLIM_EMULATED_TSAN)
    outside_.sanitizer = __tsan_get_current_fiber();
    __tsan_release(&launched);
#endif
    jump(outside_, threads_[0]);
#if defined(KVSLIM_EMULATED_TSAN)
    __tsan_acquire(&block_);
#endif
  }

  void arrive(barrier& b, int line) {
    constexpr auto relaxed = std::memory_order_relaxed;
    unsigned const generation = b.generation.load(relaxed);
    char* const order = &b.order[generation % 2];
#if defined(KVSLIM_EMULATED_TSAN)
    __tsan_release(order);
#endif
    if (b.arrived.load(relaxed) == 0)
      b.line.store(line, relaxed);
    else if (b.line.load(relaxed) != line)
      die("threads of a block or warp wait at different barriers");
    if (b.arrived.fetch_add(1, relaxed) + 1 == b.size) {
      b.arrived.store(0, relaxed);
      b.generation.store(generation + 1, relaxed);
      waiting_.fetch_sub(b.size - 1, relaxed);
    } else {
      waiting_.fetch_add(1, relaxed);
      thread_state& me = *running();
      me.waits_since.store(generation, relaxed);
      me.waits_at.store(&b, relaxed);
      next();
      me.waits_at.store(nullptr, relaxed);
    }
#if defined(KVSLIM_EMULATED_TSAN)
    __tsan_acquire(order);
#else
    static_cast<void>(order);
#endif
  }

 private:
  static void enter() {
#if defined(KVSLIM_EMULATED_TSAN)
    __tsan_acquire(&launched);
#endif
    thread_state& me = *running();
    thread_team& team = *me.team;
    team.landed(me);
    team.body_(me);
    me.done.store(true, std::memory_order_relaxed);
    if (team.live_.fetch_sub(1, std::memory_order_relaxed) == 1)
      team.jump(me, team.outside_, true);
    else
      team.next(true);
  }

  /// The next thread's turn. The direction changes with the barriers, so that no thread is always
  /// first.
  void next(bool ends = false) {
    constexpr auto relaxed = std::memory_order_relaxed;
    if (waiting_.load(relaxed) == live_.load(relaxed))
      die("not every thread of a block or warp reaches the same barriers");
    thread_state& me = *running();
    unsigned const n = static_cast<unsigned>(threads_.size());
    unsigned const step = block_.generation.load(relaxed) % 2 == 0 ? 1 : n - 1;
    unsigned i = me.thread.x;
    do i = (i + step) % n;
    while (stands(threads_[i]));
    jump(me, threads_[i], ends);
  }
  /// Whether a thread has nothing to do until others reach its barrier, or at all.
  static bool stands(thread_state const& t) {
    constexpr auto relaxed = std::memory_order_relaxed;
    barrier const* const at = t.waits_at.load(relaxed);
    return t.done.load(relaxed) ||
           (at != nullptr && at->generation.load(relaxed) == t.waits_since.load(relaxed));
  }

  void jump(thread_state& from, thread_state& to, bool ends = false) {
    running_thread.store(&to, std::memory_order_relaxed);
#if defined(KVSLIM_EMULATED_ASAN)
    __sanitizer_start_switch_fiber(ends ? nullptr : &from.fake_stack,
                                   to.stack == nullptr ? outside_bottom_ : to.stack,
                                   to.stack == nullptr ? outside_size_ : stack_bytes);
#else
    static_cast<void>(ends);
#endif
#if defined(KVSLIM_EMULATED_TSAN)
    void* const fiber = to.sanitizer;
    if (ends) __tsan_release(&block_);  // the last that this thread does
    __tsan_switch_to_fiber(fiber, 1);   // orders nothing
#endif
#if defined(KVSLIM_EMULATED_ASAN)
    swapcontext(&from.context, &to.context);
#else
    // swapcontext asks the kernel for the mask of signals, which takes longer than all else here.
    if (__builtin_setjmp(from.place) == 0) {
      if (to.stack == nullptr || to.begun) leave_for(to);
      to.begun = true;
      setcontext(&to.context);
    }
#endif
    landed(from);
  }
  [[noreturn, gnu::noinline]] static void leave_for(thread_state& to) {
    __builtin_longjmp(to.place, 1);
  }
  void landed([[maybe_unused]] thread_state& me) {
#if defined(KVSLIM_EMULATED_ASAN)
    void const* bottom = nullptr;
    std::size_t size = 0;
    __sanitizer_finish_switch_fiber(me.fake_stack, &bottom, &size);
    if (outside_bottom_ == nullptr) {
      outside_bottom_ = bottom;
      outside_size_ = size;
    }
#endif
  }

  std::function<void(thread_state&)> body_;
  std::vector<thread_state> threads_;
  thread_state outside_;
  barrier block_;
  std::deque<barrier> warps_;
  std::unique_ptr<stack_set> stacks_;
  std::atomic<unsigned> live_, waiting_ = 0;
  void const* outside_bottom_ = nullptr;
  std::size_t outside_size_ = 0;
};

inline void thread_state::wait(barrier& b, int line) { team->arrive(b, line); }

/// Calls body(thread) in each of `threads` threads that know each other.
inline void run_threads(unsigned threads, std::function<void(thread_state&)> body) {
  thread_team team(threads, std::move(body));
  team.run();
}

}  // namespace emulated
