#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
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

/// One tensor of a file: C order, little endian.
struct TensorEntry {
  std::string name;
  Dtype dtype = Dtype::kF32;
  std::vector<std::int64_t> shape;       ///< {} is a scalar; a size may be 0
  std::span<const std::byte> data = {};  ///< not owned; may be unaligned
};

using TensorMetadata = std::map<std::string, std::string>;

/// A safetensors file, mapped. The header is checked as a whole before a tensor is given out: its
/// length at most 100,000,000, no key twice, shape x type without overflow, and the data covering
/// the rest of the file without hole or overlap. Values are not looked at (NaN is the caller's).
class SafetensorsFile {
 public:
  /// Throws Error(kInput) that names the file, the tensor, what was found and what was wanted.
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return file_.path(); }
  /// In the order of their data. They live as long as this object.
  const std::vector<TensorEntry>& tensors() const { return tensors_; }
  const TensorEntry* find(std::string_view name) const;  ///< null when absent
  /// Throws Error(kInput) when absent.
  const TensorEntry& at(std::string_view name) const;
  const TensorMetadata& metadata() const { return metadata_; }

 private:
  MappedFile file_;
  std::vector<TensorEntry> tensors_;
  std::map<std::string_view, std::size_t> index_;
  TensorMetadata metadata_;
};

/// Replaces `path` atomically (write_file_atomically). Tensors are written by descending type, then
/// by name, behind a header padded to 8 bytes. Throws Error(kUsage) for a name given twice or data
/// that does not fit the shape, Error(kResource) when writing fails.
void write_safetensors(const std::filesystem::path& path, std::vector<TensorEntry> tensors,
                       const TensorMetadata& metadata = {});

}  // namespace lram
