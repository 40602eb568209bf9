#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace lram {

/// Fixed worker threads for the same kind of work again and again. for_each() runs body(index,
/// worker) for every index of [0, count) and returns when all are done; the calling thread works
/// too, as worker 0. One for_each() at a time. The first exception of a body is thrown again from
/// for_each(), after the others finished.
///
/// Made for bodies down to a microsecond. Every worker has a range of its own, the same one in each
/// round with the same count, so that what an index works on stays in one core's cache; who is done
/// early takes from the others. All without a lock, and idle workers spin before they sleep.
class ThreadPool {
 public:
  /// `num_threads` in all, the caller's included; 0 = one per core.
  explicit ThreadPool(std::size_t num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  std::size_t size() const { return num_ranges_; }
  /// `count` is below 2^32.
  void for_each(std::size_t count, const std::function<void(std::size_t, std::size_t)>& body);

 private:
  // Round (high half) and indices not yet taken (low half) in one word: a worker that comes late
  // finds nothing left, and whoever took indices keeps the round open.
  struct alignas(64) Range {
    std::atomic<std::uint64_t> ticket{0};
  };
  void work(std::size_t worker);
  void run_all(std::size_t worker);
  std::uint32_t run_chunk(std::size_t range, std::size_t worker);
  std::size_t range_end(std::size_t range) const { return count_ * (range + 1) / num_ranges_; }

  std::size_t num_ranges_ = 0;  ///< one per worker
  std::unique_ptr<Range[]> ranges_;
  const std::function<void(std::size_t, std::size_t)>* body_ = nullptr;
  std::size_t count_ = 0;
  std::mutex failure_mutex_;
  std::exception_ptr failure_;
  alignas(64) std::atomic<std::uint32_t> round_{0};       ///< workers wait for the next
  alignas(64) std::atomic<std::uint32_t> unfinished_{0};  ///< indices of this round
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
};

}  // namespace lram
