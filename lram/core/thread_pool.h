#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace lram {

/// Fixed worker threads for the same kind of work again and again. for_each() runs body(index,
/// worker) for every index of [0, count) and returns when all are done; the calling thread works
/// too, as worker 0. One for_each() at a time. The first exception of a body is thrown again from
/// for_each(), after the others finished.
///
/// Made for bodies down to a microsecond: indices are handed out in chunks that shrink towards the
/// end, without a lock, and idle workers spin for some microseconds before they sleep.
class ThreadPool {
 public:
  /// `num_threads` in all, the caller's included; 0 = one per core.
  explicit ThreadPool(std::size_t num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  std::size_t size() const { return threads_.size() + 1; }
  /// `count` is below 2^32.
  void for_each(std::size_t count, const std::function<void(std::size_t, std::size_t)>& body);

 private:
  void work(std::size_t worker);
  bool run_chunk(std::size_t worker);

  // Round (high half) and indices not yet handed out (low half) in one word: a worker that comes
  // late finds another round or nothing left, and whoever took indices keeps the round open.
  std::atomic<std::uint64_t> ticket_{0};
  std::atomic<std::uint32_t> unfinished_{0};  ///< indices of this round
  std::atomic<bool> stop_{false};
  const std::function<void(std::size_t, std::size_t)>* body_ = nullptr;
  std::uint32_t count_ = 0;
  std::mutex failure_mutex_;
  std::exception_ptr failure_;
  std::vector<std::thread> threads_;
};

}  // namespace lram
