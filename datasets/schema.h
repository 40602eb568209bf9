#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "lram/core/spec.h"

// The one file format for data sets: one HDF5 file per task, E episodes of N steps in all. Every
// array is contiguous, little-endian, begins at a multiple of 64 bytes and carries its CRC32C.
//
//   /observations           float32 [N + E, D]        where the task has a vector
//   /images                 uint8   [N + E, H, W, C]  where it has an image
//   /actions                float32 [N, A], or int32 [N] for a discrete task
//   /rewards                float32 [N]
//   /terminated, /truncated uint8   [N]
//   /episodes/offset              int64   [E]  first step; observations begin at offset + index
//   /episodes/observation_offset  int64   [E]
//   /episodes/length              int64   [E]  steps, at least 1
//   /episodes/seed                uint64  [E]
//   /episodes/return              float64 [E]
//   /episodes/variant             string of fixed size, null-padded [E]
//
// Attributes of the root: format_version (int64), task (full id), spec (TaskSpec as JSON),
// generator, generator_version; of every array: crc32c (uint32). Episodes are in the order of
// collection.
namespace lram::datasets {

inline constexpr std::int64_t kFormatVersion = 1;
inline constexpr std::size_t kAlignment = 64;  ///< bytes

/// Who made the data. A file holds the episodes of one generator, so `version` changes when its
/// episodes do.
struct Generator {
  std::string name;     ///< e.g. "planner"
  std::string version;  ///< e.g. "1"
  bool operator==(const Generator&) const = default;
};

enum class ElementType { kFloat32, kFloat64, kInt32, kInt64, kUint8, kUint64, kString };

/// What one array of a file must look like, given its task and counts.
struct ArraySpec {
  std::string path;  ///< inside the file, e.g. "/actions"
  ElementType type = ElementType::kFloat32;
  std::vector<std::int64_t> shape;
  std::int64_t element_size = 0;  ///< bytes

  std::int64_t num_bytes() const;  ///< the largest int64 where the product overflows
};

/// All arrays of a file of `num_episodes` with `num_steps` in all, in the order of the file.
/// `variant_size` is the bytes of the longest variant, at least 1.
std::vector<ArraySpec> array_specs(const TaskSpec& spec, std::int64_t num_episodes,
                                   std::int64_t num_steps, std::int64_t variant_size);

/// Why episodes of this task cannot be stored, or "".
std::string storage_problem(const TaskSpec& spec);

/// `path`.part, where the episodes of `path` gather until it is built.
std::filesystem::path journal_path(const std::filesystem::path& path);

}  // namespace lram::datasets
