#include "datasets/file_builder.h"

#include <unistd.h>

#include <algorithm>
#include <map>
#include <string>

#include "datasets/hdf5_file.h"
#include "datasets/reader.h"
#include "lram/core/crc32c.h"
#include "lram/core/error.h"
#include "lram/core/file.h"

namespace lram::datasets {
namespace {
using Bytes = std::span<const std::byte>;

// The part of an episode that belongs to an array with a row per step or observation.
Bytes episode_part(const EpisodeView& episode, const std::string& array) {
  if (array == "/observations") return std::as_bytes(episode.observations);
  if (array == "/images") return std::as_bytes(episode.images);
  if (array == "/actions")
    return episode.actions.empty() ? std::as_bytes(episode.discrete_actions)
                                   : std::as_bytes(episode.actions);
  if (array == "/rewards") return std::as_bytes(episode.rewards);
  if (array == "/terminated") return std::as_bytes(episode.terminated);
  return std::as_bytes(episode.truncated);
}

template <typename T>
void append(std::vector<std::byte>& column, T value) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  column.insert(column.end(), bytes.begin(), bytes.end());
}

struct Counts {
  std::int64_t num_steps = 0, variant_size = 1;
};

Counts count(const std::vector<EpisodeView>& episodes) {
  Counts counts;
  for (const EpisodeView& episode : episodes) {
    counts.num_steps += episode.length();
    counts.variant_size = std::max(counts.variant_size, std::ssize(episode.variant));
  }
  return counts;
}

// The columns of the episode table, by path.
std::map<std::string, std::vector<std::byte>> episode_table(
    const std::vector<EpisodeView>& episodes, std::int64_t variant_size) {
  std::map<std::string, std::vector<std::byte>> table;
  std::int64_t offset = 0, index = 0;
  for (const EpisodeView& episode : episodes) {
    append(table["/episodes/offset"], offset);
    append(table["/episodes/observation_offset"], offset + index);
    append(table["/episodes/length"], episode.length());
    append(table["/episodes/seed"], episode.seed);
    append(table["/episodes/return"], episode.episode_return);
    auto& variants = table["/episodes/variant"];
    const auto text = std::as_bytes(std::span(episode.variant));
    variants.insert(variants.end(), text.begin(), text.end());
    ++index;
    variants.resize(static_cast<std::size_t>(index * variant_size));
    offset += episode.length();
  }
  return table;
}

// Calls visit(bytes) for the pieces of one array, in order.
template <typename Visit>
void for_each_piece(const std::vector<EpisodeView>& episodes,
                    const std::map<std::string, std::vector<std::byte>>& table,
                    const std::string& array, Visit visit) {
  if (const auto column = table.find(array); column != table.end()) {
    visit(Bytes(column->second));
  } else {
    for (const EpisodeView& episode : episodes) visit(episode_part(episode, array));
  }
}

// Writes the image up to byte `end`: HDF5's structures, and zeros where it has none.
void write_image(OutputFile& file, const FileImage& image, std::uint64_t end) {
  const auto have = std::min<std::uint64_t>(end, image.bytes.size());
  if (file.size() < have) file.write(Bytes(image.bytes).subspan(file.size(), have - file.size()));
  const std::vector<std::byte> zeros(end - file.size());
  file.write(zeros);
}
}  // namespace

void build_file(const std::filesystem::path& path, const TaskSpec& spec, const Generator& generator,
                const std::vector<EpisodeView>& episodes) {
  const Counts counts = count(episodes);
  const auto table = episode_table(episodes, counts.variant_size);
  const std::vector<ArraySpec> arrays =
      array_specs(spec, std::ssize(episodes), counts.num_steps, counts.variant_size);
  std::vector<std::uint32_t> crcs;
  for (const ArraySpec& array : arrays) {
    crcs.push_back(0);
    for_each_piece(episodes, table, array.path,
                   [&](Bytes bytes) { crcs.back() = crc32c(bytes, crcs.back()); });
  }
  const FileImage image = make_file_image(spec, generator, arrays, crcs);
  const std::filesystem::path beside = path.string() + ".new";
  try {
    OutputFile file(beside, OutputFile::Mode::kTruncate);
    for (std::size_t i = 0; i < arrays.size(); ++i) {
      write_image(file, image, image.offsets[i]);
      for_each_piece(episodes, table, arrays[i].path, [&](Bytes bytes) { file.write(bytes); });
    }
    write_image(file, image, image.size);
    file.sync();
    file.close();
    Dataset check(beside);  // what HDF5 laid out and we filled in opens again
    rename_durably(beside, path);
  } catch (...) {
    ::unlink(beside.c_str());
    throw;
  }
}
}  // namespace lram::datasets
