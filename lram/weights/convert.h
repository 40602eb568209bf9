#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "lram/weights/formats.h"

namespace lram::weights {

/// The format of our own policies, whose backbone is one of the families.
inline constexpr const char* kPolicyFormat = "lram";

struct ConvertOptions {
  std::string from;                   ///< a format's name, or "" = what the tensors show
  std::string to;                     ///< a format's name
  std::uint64_t max_shard_bytes = 0;  ///< of tensor data in one file; 0 = one file
  std::vector<std::string> drop;      ///< tensors (the family's names) to leave out
  std::filesystem::path into;         ///< to "lram": the checkpoint whose backbone is replaced
  FormatOptions format;
};

struct ConvertResult {
  std::string from, to;
  std::size_t num_tensors = 0;
  std::uint64_t bytes = 0;  ///< of tensor data
  std::vector<std::string> files;
};

/// Weights under their family's names.
struct FamilyWeights {
  std::string format;  ///< as given or found
  Family family = Family::kXlstmV1;
  WeightSet tensors;  ///< these point into the files
};

/// The family's tensors of a public file or folder, or of a policy checkpoint's backbone, checked.
/// `format` "" is detected. Throws Error(kInput) or, for an unknown format, Error(kUsage).
FamilyWeights read_weights(const TensorFiles& files, const std::string& format,
                           const FormatOptions& options = {});

/// Rewrites weights under another package's names and layouts, tensor by tensor from mapped files.
/// `out` is a file where its name ends in .safetensors, else a folder; it must not be there yet and
/// appears whole or not at all. Where only names change bytes stay as they are. Throws
/// Error(kInput) as read_weights(), Error(kUsage) for formats of different families, an `out` that
/// exists or options that do not fit, Error(kResource) when writing fails.
ConvertResult convert(const std::filesystem::path& in, const std::filesystem::path& out,
                      const ConvertOptions& options);

/// Writes a set as one file, or as shards with model.safetensors.index.json into a folder that
/// exists. `numbered`: shards called model_0.safetensors, as the xlstm package wants them. Returns
/// the names of the files.
std::vector<std::string> write_shards(const std::filesystem::path& folder, const WeightSet& set,
                                      const TensorMetadata& metadata, std::uint64_t max_shard_bytes,
                                      bool numbered = false);

}  // namespace lram::weights
