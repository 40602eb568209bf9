#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <vector>

namespace lram::training {

/// The checkpoints of a run, a folder with one per step:
///   000000100/ {config.json, model.safetensors, training_state/, MANIFEST.json}
///   last -> 000000100
/// A crash at any moment leaves only whole checkpoints under such names; what it left half-written
/// has a name ending in .new or .old and goes with the next write(). One writer at a time.
class CheckpointFolder {
 public:
  /// `keep` newest checkpoints stay, 0 = all of them.
  CheckpointFolder(std::filesystem::path folder, std::int64_t keep);

  /// Publishes what `fill` puts into the folder it is given: written beside with its manifest,
  /// fsynced, renamed; then `last` is replaced by rename. Returns the checkpoint's folder. Throws
  /// Error(kResource) when the disk is full, after which the older checkpoints are as before and
  /// nothing half-written is left.
  std::filesystem::path write(std::int64_t step,
                              const std::function<void(const std::filesystem::path&)>& fill);

  /// The newest checkpoint whose files all fit its manifest; a warning names what is wrong with
  /// each newer one. Nothing when there is none.
  std::optional<std::filesystem::path> newest_whole() const;

  /// Steps of all checkpoints, ascending, whole or not.
  std::vector<std::int64_t> steps() const;
  std::filesystem::path path_of(std::int64_t step) const;

 private:
  void remove_litter() const;
  void remove_checkpoint(std::int64_t step) const;
  void point_last_at(std::int64_t step) const;

  std::filesystem::path folder_;
  std::int64_t keep_;
};

}  // namespace lram::training
