#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lram/core/file.h"

namespace lram {

/// Element types of a safetensors file, in the order by which its writers sort (descending).
enum class Dtype { kBool, kU8, kI8, kI16, kU16, kF16, kBF16, kI32, kU32, kF32, kF64, kI64, kU64 };

std::size_t dtype_size(Dtype dtype);       ///< bytes
std::string_view dtype_name(Dtype dtype);  ///< as in the file: "F32"
bool is_floating(Dtype dtype);
/// Bytes of a tensor, or nothing when they do not fit 64 bits. No size may be negative.
std::optional<std::uint64_t> byte_size(Dtype dtype, std::span<const std::int64_t> shape);

/// One tensor of a file: C order, little endian.
struct TensorEntry {
  std::string name;
  Dtype dtype = Dtype::kF32;
  std::vector<std::int64_t> shape;       ///< {} is a scalar; a size may be 0
  std::span<const std::byte> data = {};  ///< not owned; may be unaligned
};

using TensorMetadata = std::map<std::string, std::string>;

/// What a file of the format holds.
struct SafetensorsContent {
  std::vector<TensorEntry> tensors;  ///< in the order of their data
  TensorMetadata metadata;
};

/// Checks `bytes`, a whole file, before anything but the header's own content is allocated: header
/// of at most 100,000,000 bytes, no key twice, shape x type without overflow, the data covering the
/// rest without hole or overlap. Values are not looked at (NaN is the caller's). The tensors' data
/// point into `bytes`. Throws Error(kInput) that begins with `where` and names the tensor, what was
/// found and what was wanted.
SafetensorsContent parse_safetensors(std::span<const std::byte> bytes, const std::string& where);

/// A safetensors file, mapped and checked as a whole (parse_safetensors).
class SafetensorsFile {
 public:
  /// Throws Error(kInput) that names the file, the tensor, what was found and what was wanted.
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return file_.path(); }
  /// In the order of their data. They live as long as this object.
  const std::vector<TensorEntry>& tensors() const { return content_.tensors; }
  const TensorEntry* find(std::string_view name) const;  ///< null when absent
  /// Throws Error(kInput) when absent.
  const TensorEntry& at(std::string_view name) const;
  const TensorMetadata& metadata() const { return content_.metadata; }

 private:
  MappedFile file_;
  SafetensorsContent content_;
  std::map<std::string_view, std::size_t> index_;
};

/// Replaces `path` atomically (write_file_atomically). Tensors are written by descending type, then
/// by name, behind a header padded to 8 bytes. Throws Error(kUsage) for a name given twice or data
/// that does not fit the shape, Error(kResource) when writing fails.
void write_safetensors(const std::filesystem::path& path, std::vector<TensorEntry> tensors,
                       const TensorMetadata& metadata = {});

/// A tensor of which no byte need be in memory before its turn comes.
struct TensorSource {
  std::string name;
  Dtype dtype = Dtype::kF32;
  std::vector<std::int64_t> shape;
  std::function<void(OutputFile&)> write;  ///< called once; puts the tensor's bytes into the file
};

/// write_safetensors() for tensors that together need not fit into memory.
void stream_safetensors(const std::filesystem::path& path, std::vector<TensorSource> tensors,
                        const TensorMetadata& metadata = {});

}  // namespace lram
