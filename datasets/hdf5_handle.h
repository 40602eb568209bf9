#pragma once
#include <hdf5.h>

#include <mutex>
#include <string>
#include <utility>

#include "lram/core/error.h"

namespace lram::datasets {

/// Holds the library's mutex and keeps libhdf5 from printing its error stack.
class Hdf5Session {
 public:
  Hdf5Session() : lock_(mutex()) {
    // Nothing of ours is open at exit, but version 1.10 keeps objects of a damaged file and then
    // complains on stderr that it cannot close itself.
    [[maybe_unused]] static const herr_t once = H5dont_atexit();
    H5Eget_auto2(H5E_DEFAULT, &print_, &print_data_);
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  }
  ~Hdf5Session() { H5Eset_auto2(H5E_DEFAULT, print_, print_data_); }
  Hdf5Session(const Hdf5Session&) = delete;
  Hdf5Session& operator=(const Hdf5Session&) = delete;

  /// The innermost message of the call that failed last.
  static std::string last_error() {
    std::string text = "unknown error";
    const auto take = [](unsigned, const H5E_error2_t* error, void* out) -> herr_t {
      if (error->desc != nullptr) *static_cast<std::string*>(out) = error->desc;
      return 0;
    };
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_DOWNWARD, take, &text);
    return text;
  }

 private:
  static std::mutex& mutex() {
    static std::mutex instance;
    return instance;
  }
  std::unique_lock<std::mutex> lock_;
  H5E_auto2_t print_ = nullptr;
  void* print_data_ = nullptr;
};

/// An HDF5 identifier with the function that closes it.
class Hdf5Handle {
 public:
  Hdf5Handle(hid_t id, herr_t (*closer)(hid_t)) : id_(id), close_(closer) {}
  ~Hdf5Handle() {
    if (id_ >= 0) close_(id_);
  }
  Hdf5Handle(Hdf5Handle&& other) noexcept
      : id_(std::exchange(other.id_, H5I_INVALID_HID)), close_(other.close_) {}
  Hdf5Handle(const Hdf5Handle&) = delete;
  Hdf5Handle& operator=(const Hdf5Handle&) = delete;
  Hdf5Handle& operator=(Hdf5Handle&&) = delete;

  operator hid_t() const { return id_; }
  bool valid() const { return id_ >= 0; }
  /// Closes now, so that a failure can be seen.
  herr_t close() { return close_(std::exchange(id_, H5I_INVALID_HID)); }

 private:
  hid_t id_;
  herr_t (*close_)(hid_t);
};

}  // namespace lram::datasets
