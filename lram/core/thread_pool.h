#pragma once
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace lram {

/// Fixed worker threads for the same kind of work again and again. for_each() runs body(index,
/// worker) for every index of [0, count) and returns when all are done; indices are handed out one
/// by one, and the calling thread works too, as worker 0. One for_each() at a time. The first
/// exception of a body is thrown again from for_each(), after the others finished.
class ThreadPool {
 public:
  /// `num_threads` in all, the caller's included; 0 = one per core.
  explicit ThreadPool(std::size_t num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  std::size_t size() const { return threads_.size() + 1; }
  void for_each(std::size_t count, const std::function<void(std::size_t, std::size_t)>& body);

 private:
  void work(std::size_t worker);
  void run_some(std::size_t worker, std::unique_lock<std::mutex>& lock);

  std::mutex mutex_;
  std::condition_variable start_, done_;
  const std::function<void(std::size_t, std::size_t)>* body_ = nullptr;
  std::size_t next_ = 0, count_ = 0, running_ = 0;
  std::exception_ptr failure_;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace lram
