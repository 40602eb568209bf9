#pragma once
#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "datasets/episode.h"
#include "datasets/schema.h"
#include "lram/core/file.h"
#include "lram/core/spec.h"

namespace lram::datasets {

/// A finished data set, read in place: HDF5 says where each array lies and is closed again, the
/// rest is a memory map. Nothing is copied, the file may be larger than memory, and any number of
/// threads may read without a lock.
///   Dataset data("data/cartpole_swingup.h5");
///   EpisodeView episode = data.episode(0);  // lives as long as `data`
class Dataset {
 public:
  /// One array where it lies in the file.
  struct Array {
    ArraySpec spec;
    std::span<const std::byte> bytes;
    std::uint32_t crc32c = 0;  ///< as the file says; `lram data validate` compares
  };

  /// Throws Error(kInput) with path, place inside, what was found and wanted, on a file that is
  /// missing, truncated, of another format, or whose shapes, offsets or episode table do not fit
  /// together. Checksums and values are not looked at.
  explicit Dataset(const std::filesystem::path& path);

  const TaskSpec& spec() const { return spec_; }
  const Generator& generator() const { return generator_; }
  const std::filesystem::path& path() const { return file_.path(); }
  std::int64_t num_episodes() const { return std::ssize(lengths_); }
  std::int64_t num_steps() const { return std::ssize(rewards_); }
  /// Steps, returns and seeds of the episodes, in the order of the file. [E]
  std::span<const std::int64_t> lengths() const { return lengths_; }
  std::span<const double> returns() const { return returns_; }
  std::span<const std::uint64_t> seeds() const { return seeds_; }
  std::int64_t length(std::int64_t episode) const {
    return lengths_[static_cast<std::size_t>(episode)];
  }

  /// Episode `index` of 0 .. num_episodes() - 1.
  EpisodeView episode(std::int64_t index) const;
  const std::vector<Array>& arrays() const { return arrays_; }

 private:
  void check_episode_table() const;

  MappedFile file_;
  TaskSpec spec_;
  Generator generator_;
  std::vector<Array> arrays_;
  std::int64_t variant_size_ = 0;
  std::span<const float> observations_, actions_, rewards_;
  std::span<const std::uint8_t> images_, terminated_, truncated_;
  std::span<const std::int32_t> discrete_actions_;
  std::span<const std::int64_t> offsets_, observation_offsets_, lengths_;
  std::span<const std::uint64_t> seeds_;
  std::span<const double> returns_;
  std::span<const char> variants_;
};

}  // namespace lram::datasets
