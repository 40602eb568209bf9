#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace lram {

/// A read-only memory map of a whole file. Safe to read from any number of threads.
class MappedFile {
 public:
  /// Throws Error(kInput) that names the path and the cause.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  MappedFile& operator=(MappedFile&&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// A file written through a descriptor; every failure throws Error(kResource) with the path and the
/// system's reason (disk full, file size limit). SIGXFSZ is ignored from the first open on, so that
/// RLIMIT_FSIZE shows as such an error.
class OutputFile {
 public:
  enum class Mode { kTruncate, kAppend };
  OutputFile(const std::filesystem::path& path, Mode mode);
  ~OutputFile();  ///< closes without flushing to disk
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  void write(std::span<const std::byte> data);
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }
  void sync();   ///< fsync
  void close();  ///< reports what close() reports; the destructor cannot
  /// Bytes in the file: those it had when opened for appending, and those written since.
  std::uint64_t size() const { return size_; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
  std::uint64_t size_ = 0;
};

/// The whole file. Throws Error(kInput).
std::string read_file(const std::filesystem::path& path);

/// Replaces `path` by `content` so that a crash at any moment leaves the old or the new file:
/// written beside as `path.new`, fsynced, renamed, folder fsynced. Throws Error(kResource) and
/// leaves no litter.
void write_file_atomically(const std::filesystem::path& path, std::string_view content);
/// The same with what `write` puts into the file.
void write_file_atomically(const std::filesystem::path& path,
                           const std::function<void(OutputFile&)>& write);

/// fsync of an existing file (one that a library wrote) or folder.
void sync_path(const std::filesystem::path& path);

/// rename(2) and fsync of the folder. Throws Error(kResource).
void rename_durably(const std::filesystem::path& from, const std::filesystem::path& to);

/// Makes a folder and its parents. Throws Error(kResource).
void make_folder(const std::filesystem::path& path);

namespace internal {
/// For tests of what a failing disk does: of the following calls that change a file (open for
/// writing, write, fsync, close, rename), the `countdown`-th fails with errno `code`, a write after
/// half of its bytes. 0 switches it off. Returns whether the fault set before has struck.
bool inject_file_fault(int countdown, int code);
}  // namespace internal

}  // namespace lram
