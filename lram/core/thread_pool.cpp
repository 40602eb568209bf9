#include "lram/core/thread_pool.h"

#include <algorithm>
#include <utility>

#include "lram/core/error.h"

namespace lram {
namespace {
constexpr int kSpins = 2000;  // about 20 us, less than going to sleep and waking up

constexpr std::uint64_t make_ticket(std::uint32_t round, std::size_t left) {
  return std::uint64_t{round} << 32 | left;
}
constexpr std::uint32_t left_in(std::uint64_t ticket) { return static_cast<std::uint32_t>(ticket); }

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

/// Returns once `ready(value)` holds: spins first, then sleeps from change to change.
template <typename Ready>
void wait_until(const std::atomic<std::uint32_t>& value, Ready ready) {
  for (int spin = 0; spin < kSpins; ++spin) {
    if (ready(value.load(std::memory_order_acquire))) return;
    pause();
  }
  for (std::uint32_t seen = value.load(std::memory_order_acquire); !ready(seen);
       seen = value.load(std::memory_order_acquire))
    value.wait(seen, std::memory_order_acquire);
}
}  // namespace

ThreadPool::ThreadPool(std::size_t num_threads)
    : num_ranges_(num_threads != 0 ? num_threads
                                   : std::max(1u, std::thread::hardware_concurrency())),
      ranges_(std::make_unique<Range[]>(num_ranges_)) {
  for (std::size_t worker = 1; worker < num_ranges_; ++worker)
    threads_.emplace_back([this, worker] { work(worker); });
}

ThreadPool::~ThreadPool() {
  stop_ = true;
  ++round_;
  round_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

// Number of indices that were run; 0 when nothing of the range was left to take.
std::uint32_t ThreadPool::run_chunk(std::size_t range, std::size_t worker) {
  std::atomic<std::uint64_t>& shared = ranges_[range].ticket;
  std::uint64_t ticket = shared.load(std::memory_order_acquire);
  std::uint32_t chunk;
  do {
    if (left_in(ticket) == 0) return 0;
    chunk = std::max(1u, left_in(ticket) / 4);
  } while (!shared.compare_exchange_weak(ticket, ticket - chunk, std::memory_order_acq_rel));
  // Until run_all() reports the chunk for_each() cannot return: body_ and count_ stand still.
  const std::size_t begin = range_end(range) - left_in(ticket);
  for (std::size_t index = begin; index < begin + chunk; ++index) {
    try {
      (*body_)(index, worker);
    } catch (...) {
      const std::lock_guard lock(failure_mutex_);
      if (!failure_) failure_ = std::current_exception();
    }
  }
  return chunk;
}

// The worker's own range, then what is left of the others'. Reports once, at the end: the counter
// is the one word that all workers write.
void ThreadPool::run_all(std::size_t worker) {
  std::uint32_t finished = 0;
  for (std::size_t i = 0; i < num_ranges_; ++i) {
    const std::size_t range = (worker + i) % num_ranges_;
    while (const std::uint32_t chunk = run_chunk(range, worker)) finished += chunk;
  }
  if (finished != 0 && unfinished_.fetch_sub(finished, std::memory_order_acq_rel) == finished)
    unfinished_.notify_one();
}

void ThreadPool::work(std::size_t worker) {
  for (std::uint32_t round = 0; !stop_;) {
    run_all(worker);
    wait_until(round_, [round](std::uint32_t now) { return now != round; });
    round = round_.load(std::memory_order_acquire);
  }
}

void ThreadPool::for_each(std::size_t count,
                          const std::function<void(std::size_t, std::size_t)>& body) {
  LRAM_CHECK(count < (std::uint64_t{1} << 32), "count is ", count, ", wanted below 2^32");
  if (count == 0) return;
  body_ = &body;
  count_ = count;
  unfinished_.store(static_cast<std::uint32_t>(count), std::memory_order_relaxed);
  const std::uint32_t round = round_.load(std::memory_order_relaxed) + 1;
  for (std::size_t range = 0, begin = 0; range < num_ranges_; ++range) {
    const std::size_t end = range_end(range);
    ranges_[range].ticket.store(make_ticket(round, end - begin), std::memory_order_release);
    begin = end;
  }
  round_.store(round, std::memory_order_release);
  if (count > 1) round_.notify_all();
  run_all(0);
  wait_until(unfinished_, [](std::uint32_t unfinished) { return unfinished == 0; });
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
}
}  // namespace lram
