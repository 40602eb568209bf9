#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "datasets/schema.h"

// All that touches libhdf5. It is not thread-safe, so every function here holds one mutex; none
// leaves a file open.
namespace lram::datasets {

/// The HDF5 structures of a data set whose arrays are still to be filled in: `bytes` from the
/// start of the file, then zeros up to `size`; array i lies at offsets[i], ascending.
struct FileImage {
  std::vector<std::byte> bytes;
  std::vector<std::uint64_t> offsets;
  std::uint64_t size = 0;
};

/// Where the file ends according to its superblock (version 2, as ours are); 0 where `bytes` are
/// too few or none.
std::uint64_t superblock_end(std::span<const std::byte> bytes);

/// HDF5 makes the image in memory and never sees the disk: what writing the file needs is then
/// plain writes, whose failures we handle, and libhdf5 has no half-written file to clean up.
FileImage make_file_image(const TaskSpec& spec, const Generator& generator,
                          std::span<const ArraySpec> arrays, std::span<const std::uint32_t> crcs);

/// What HDF5 says about a file.
struct FileLayout {
  TaskSpec spec;
  Generator generator;
  std::vector<ArraySpec> arrays;  ///< those of array_specs() for the file's own counts
  std::vector<std::uint64_t> offsets;
  std::vector<std::uint32_t> crcs;
};

/// Checks everything against the schema and the bytes of the file, `mapped`, before it is trusted.
/// Throws Error(kInput).
FileLayout read_file_layout(const std::filesystem::path& path, std::span<const std::byte> mapped);

}  // namespace lram::datasets
