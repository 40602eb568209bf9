#pragma once
#include <filesystem>
#include <list>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lram/core/safetensors.h"

namespace lram::weights {

inline constexpr const char* kWeightsName = "model.safetensors";
inline constexpr const char* kIndexName = "model.safetensors.index.json";

/// A sharded checkpoint's list of tensors: name -> file of the same folder.
struct ShardIndex {
  std::map<std::string, std::string> files;
  std::optional<std::uint64_t> total_size;  ///< bytes of all tensors, where the index says it
};

/// Reads the text of model.safetensors.index.json. Throws Error(kInput) that begins with `where`:
/// not JSON, a key twice, an entry that is no file name (a path, "..", another extension).
ShardIndex parse_shard_index(std::string_view text, const std::string& where);

/// The weights of a file, or of a folder: model.safetensors, the shards that
/// model.safetensors.index.json lists, or model_0.safetensors, model_1... (the xlstm package).
/// All files are mapped and checked when it is made.
class TensorFiles {
 public:
  /// Throws Error(kInput) with file, tensor, what was found and what was wanted: as
  /// parse_safetensors() and parse_shard_index(), a shard that is missing, a tensor in two shards,
  /// in another one than the index says, or not listed.
  explicit TensorFiles(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  const std::list<SafetensorsFile>& files() const { return files_; }
  /// Of all files, by name. They live as long as this object.
  const std::map<std::string_view, const TensorEntry*>& tensors() const { return tensors_; }
  /// Of all files; where two files differ the first one's value.
  const TensorMetadata& metadata() const { return metadata_; }
  const std::optional<ShardIndex>& index() const { return index_; }

 private:
  void add_file(const std::filesystem::path& path);

  std::filesystem::path path_;
  std::list<SafetensorsFile> files_;
  std::map<std::string_view, const TensorEntry*> tensors_;
  TensorMetadata metadata_;
  std::optional<ShardIndex> index_;
};

}  // namespace lram::weights
