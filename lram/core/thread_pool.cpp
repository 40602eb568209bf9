#include "lram/core/thread_pool.h"

#include <algorithm>
#include <utility>

#include "lram/core/error.h"

namespace lram {
namespace {
constexpr std::uint64_t kLeftMask = 0xffffffffu;
constexpr std::uint64_t kNextRound = kLeftMask + 1;
constexpr int kSpins = 2000;  // about 20 us, less than going to sleep and waking up

std::uint32_t left_in(std::uint64_t ticket) { return static_cast<std::uint32_t>(ticket); }

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

/// Returns when `ready(value)` holds: spins first, then sleeps until the value changes.
template <typename T, typename Ready>
void wait_until(const std::atomic<T>& value, Ready ready) {
  for (int spin = 0; spin < kSpins; ++spin) {
    if (ready(value.load(std::memory_order_acquire))) return;
    pause();
  }
  for (T seen = value.load(std::memory_order_acquire); !ready(seen);
       seen = value.load(std::memory_order_acquire))
    value.wait(seen, std::memory_order_acquire);
}
}  // namespace

ThreadPool::ThreadPool(std::size_t num_threads) {
  if (num_threads == 0) num_threads = std::max(1u, std::thread::hardware_concurrency());
  for (std::size_t worker = 1; worker < num_threads; ++worker)
    threads_.emplace_back([this, worker] { work(worker); });
}

ThreadPool::~ThreadPool() {
  stop_ = true;
  ticket_ += kNextRound;
  ticket_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

// False when nothing is left to take.
bool ThreadPool::run_chunk(std::size_t worker) {
  std::uint64_t ticket = ticket_.load(std::memory_order_acquire);
  std::uint32_t chunk;
  do {
    if (left_in(ticket) == 0) return false;
    chunk = std::max(1u, left_in(ticket) / (4 * static_cast<std::uint32_t>(size())));
  } while (!ticket_.compare_exchange_weak(ticket, ticket - chunk, std::memory_order_acq_rel));
  // From here to the end of the chunk for_each() cannot return: body_ and count_ stand still.
  const std::uint32_t begin = count_ - left_in(ticket);
  for (std::uint32_t index = begin; index < begin + chunk; ++index) {
    try {
      (*body_)(index, worker);
    } catch (...) {
      const std::lock_guard lock(failure_mutex_);
      if (!failure_) failure_ = std::current_exception();
    }
  }
  if (unfinished_.fetch_sub(chunk, std::memory_order_acq_rel) == chunk) unfinished_.notify_one();
  return true;
}

void ThreadPool::work(std::size_t worker) {
  while (!stop_) {
    while (run_chunk(worker)) {
    }
    wait_until(ticket_, [this](std::uint64_t ticket) { return left_in(ticket) > 0 || stop_; });
  }
}

void ThreadPool::for_each(std::size_t count,
                          const std::function<void(std::size_t, std::size_t)>& body) {
  LRAM_CHECK(count <= kLeftMask, "count is ", count, ", wanted below 2^32");
  if (count == 0) return;
  body_ = &body;
  count_ = static_cast<std::uint32_t>(count);
  unfinished_.store(count_, std::memory_order_relaxed);
  const std::uint64_t round = ticket_.load(std::memory_order_relaxed) & ~kLeftMask;
  ticket_.store(round + kNextRound + count, std::memory_order_release);
  if (count > 1) ticket_.notify_all();
  while (run_chunk(0)) {
  }
  wait_until(unfinished_, [](std::uint32_t unfinished) { return unfinished == 0; });
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
}
}  // namespace lram
