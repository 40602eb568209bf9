#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "datasets/episode.h"
#include "datasets/schema.h"
#include "lram/core/file.h"
#include "lram/core/spec.h"

// The journal F.part, little-endian, every piece padded with zeros to a multiple of 64 bytes:
//
//   header   "LRAMPART", version u32, size of the text u32, text (JSON: task, generator), CRC32C of
//            all before
//   episode  RecordHeader, then observations, images, actions, rewards, terminated, truncated,
//            variant as they lie in memory
//
// An episode counts once its record is complete and its checksums fit.
namespace lram::datasets {

/// What a journal says about itself at its beginning.
std::string encode_journal_header(const TaskSpec& spec, const Generator& generator);

/// One episode as its record. The shapes are those of the task (check_shapes).
std::vector<std::byte> encode_episode(const EpisodeView& episode);

/// A journal, read in place. Thread-safe once made.
class Journal {
 public:
  /// Reads and checks every record. Throws Error(kInput) where the header is wrong, or a record is
  /// corrupt and complete ones follow, which no crash of a writer explains.
  explicit Journal(const std::filesystem::path& path);

  const TaskSpec& spec() const { return spec_; }
  const Generator& generator() const { return generator_; }
  const std::filesystem::path& path() const { return file_.path(); }
  /// The complete episodes; the views live as long as this object.
  const std::vector<EpisodeView>& episodes() const { return episodes_; }
  /// Bytes up to the end of the last complete episode, and those behind: an episode under way, or
  /// what a crash left of it.
  std::uint64_t complete_bytes() const { return complete_bytes_; }
  std::uint64_t tail_bytes() const { return file_.bytes().size() - complete_bytes_; }

 private:
  void read_header();
  bool read_episode();

  MappedFile file_;
  TaskSpec spec_;
  Generator generator_;
  std::vector<EpisodeView> episodes_;
  std::uint64_t complete_bytes_ = 0;
};

}  // namespace lram::datasets
