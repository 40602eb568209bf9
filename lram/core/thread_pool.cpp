#include "lram/core/thread_pool.h"

#include <algorithm>

namespace lram {
ThreadPool::ThreadPool(std::size_t num_threads) {
  if (num_threads == 0) num_threads = std::max(1u, std::thread::hardware_concurrency());
  for (std::size_t worker = 1; worker < num_threads; ++worker)
    threads_.emplace_back([this, worker] { work(worker); });
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  start_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::run_some(std::size_t worker, std::unique_lock<std::mutex>& lock) {
  while (next_ < count_) {
    const std::size_t index = next_++;
    const auto* body = body_;
    ++running_;
    lock.unlock();
    std::exception_ptr failure;
    try {
      (*body)(index, worker);
    } catch (...) {
      failure = std::current_exception();
    }
    lock.lock();
    --running_;
    if (failure && !failure_) failure_ = failure;
  }
}

void ThreadPool::work(std::size_t worker) {
  std::unique_lock lock(mutex_);
  while (true) {
    start_.wait(lock, [this] { return stop_ || next_ < count_; });
    if (stop_) return;
    run_some(worker, lock);
    if (running_ == 0) done_.notify_one();
  }
}

void ThreadPool::for_each(std::size_t count,
                          const std::function<void(std::size_t, std::size_t)>& body) {
  std::unique_lock lock(mutex_);
  body_ = &body;
  next_ = 0;
  count_ = count;
  failure_ = nullptr;
  if (count > 1) start_.notify_all();
  run_some(0, lock);
  done_.wait(lock, [this] { return running_ == 0; });
  body_ = nullptr;
  count_ = 0;
  if (failure_) std::rethrow_exception(failure_);
}
}  // namespace lram
