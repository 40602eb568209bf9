#pragma once
#include <cstddef>
#include <cstring>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "lram/core/error.h"

namespace lram::envs {

/// What Environment::save_state() is written with: plain values, one after the other.
class StateWriter {
 public:
  explicit StateWriter(std::size_t size_hint = 0) { bytes_.reserve(size_hint); }
  template <typename T>
  void put(const T& value) {
    put(&value, 1);
  }
  template <typename T>
  void put(const T* values, std::size_t count) {
    static_assert(std::is_trivially_copyable_v<T>);
    const auto* begin = reinterpret_cast<const std::byte*>(values);
    bytes_.insert(bytes_.end(), begin, begin + count * sizeof(T));
  }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

/// Reads it back; a state of another length throws Error(kInput) that names the task.
class StateReader {
 public:
  StateReader(const std::string& task, std::span<const std::byte> bytes, std::size_t wanted)
      : rest_(bytes) {
    if (bytes.size() != wanted)
      throw_error(ErrorKind::kInput, "{}: saved state has {} bytes, wanted {}", task, bytes.size(),
                  wanted);
  }
  template <typename T>
  T get() {
    T value;
    get(&value, 1);
    return value;
  }
  template <typename T>
  void get(T* values, std::size_t count) {
    static_assert(std::is_trivially_copyable_v<T>);
    if (count != 0) std::memcpy(static_cast<void*>(values), rest_.data(), count * sizeof(T));
    rest_ = rest_.subspan(count * sizeof(T));
  }

 private:
  std::span<const std::byte> rest_;
};

}  // namespace lram::envs
