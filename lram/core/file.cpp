#include "lram/core/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

#include "lram/core/error.h"

namespace lram {
namespace fs = std::filesystem;
namespace {
[[noreturn]] void fail(ErrorKind kind, const fs::path& path, const char* action) {
  const int code = errno;
  throw_error(kind, "{}: cannot {}: {}", path.string(), action, std::strerror(code));
}

std::atomic<int> fault_countdown{0}, fault_code{0};

// Whether the call that follows shall fail; sets errno.
bool fault_strikes() {
  if (fault_countdown.load(std::memory_order_relaxed) <= 0) [[likely]]
    return false;
  if (--fault_countdown != 0) return false;
  errno = fault_code;
  return true;
}

int flush_to_disk(int descriptor) { return fault_strikes() ? -1 : ::fsync(descriptor); }

void ignore_file_size_signal() {
  [[maybe_unused]] static const auto previous = std::signal(SIGXFSZ, SIG_IGN);
}
}  // namespace

MappedFile::MappedFile(const fs::path& path) : path_(path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) fail(ErrorKind::kInput, path, "open");
  struct stat status {};
  if (::fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode)) {
    if (S_ISDIR(status.st_mode)) errno = EISDIR;
    const int code = errno;
    ::close(descriptor);
    errno = code;
    fail(ErrorKind::kInput, path, "read");
  }
  size_ = static_cast<std::size_t>(status.st_size);
  if (size_ > 0) {
    void* data = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, descriptor, 0);
    const int code = errno;
    ::close(descriptor);
    errno = code;
    if (data == MAP_FAILED) fail(ErrorKind::kInput, path, "map");
    data_ = static_cast<const std::byte*>(data);
  } else {
    ::close(descriptor);
  }
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

OutputFile::OutputFile(const fs::path& path, Mode mode) : path_(path) {
  ignore_file_size_signal();
  const int flags = O_WRONLY | O_CREAT | O_CLOEXEC | (mode == Mode::kTruncate ? O_TRUNC : O_APPEND);
  descriptor_ = fault_strikes() ? -1 : ::open(path.c_str(), flags, 0644);
  if (descriptor_ < 0) fail(ErrorKind::kResource, path, "open for writing");
  struct stat status {};
  if (::fstat(descriptor_, &status) == 0) size_ = static_cast<std::uint64_t>(status.st_size);
}

OutputFile::~OutputFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void OutputFile::write(std::span<const std::byte> data) {
  while (!data.empty()) {
    if (fault_strikes()) [[unlikely]] {
      const int code = errno;
      [[maybe_unused]] const ssize_t half = ::write(descriptor_, data.data(), data.size() / 2);
      errno = code;
      fail(ErrorKind::kResource, path_, "write");
    }
    const ssize_t written = ::write(descriptor_, data.data(), data.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      fail(ErrorKind::kResource, path_, "write");
    }
    data = data.subspan(static_cast<std::size_t>(written));
    size_ += static_cast<std::uint64_t>(written);
  }
}

void OutputFile::sync() {
  if (flush_to_disk(descriptor_) != 0) fail(ErrorKind::kResource, path_, "fsync");
}

void OutputFile::close() {
  const int descriptor = std::exchange(descriptor_, -1);
  if (descriptor < 0) return;
  const bool fault = fault_strikes();
  const int code = errno;
  const int result = ::close(descriptor);
  if (fault) errno = code;
  if (fault || result != 0) fail(ErrorKind::kResource, path_, "close");
}

std::string read_file(const fs::path& path) {
  const MappedFile file(path);
  const auto bytes = file.bytes();
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

void sync_path(const fs::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) fail(ErrorKind::kResource, path, "open");
  const int result = flush_to_disk(descriptor);
  const int code = errno;
  ::close(descriptor);
  errno = code;
  if (result != 0) fail(ErrorKind::kResource, path, "fsync");
}

void rename_durably(const fs::path& from, const fs::path& to) {
  if (fault_strikes() || ::rename(from.c_str(), to.c_str()) != 0)
    fail(ErrorKind::kResource, to, "rename into place");
  sync_path(to.has_parent_path() ? to.parent_path() : fs::path("."));
}

void write_file_atomically(const fs::path& path, std::string_view content) {
  write_file_atomically(path, [content](OutputFile& file) { file.write(content); });
}

void write_file_atomically(const fs::path& path, const std::function<void(OutputFile&)>& write) {
  const fs::path beside = path.string() + ".new";
  try {
    OutputFile file(beside, OutputFile::Mode::kTruncate);
    write(file);
    file.sync();
    file.close();
    rename_durably(beside, path);
  } catch (...) {
    ::unlink(beside.c_str());
    throw;
  }
}

void make_folder(const fs::path& path) {
  std::error_code code;
  fs::create_directories(path, code);
  if (code)
    throw_error(ErrorKind::kResource, "{}: cannot make folder: {}", path.string(), code.message());
}

bool internal::inject_file_fault(int countdown, int code) {
  fault_code = code;
  return fault_countdown.exchange(countdown) <= 0;
}
}  // namespace lram
