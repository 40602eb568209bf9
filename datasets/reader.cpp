#include "datasets/reader.h"

#include <bit>

#include "datasets/hdf5_file.h"
#include "lram/core/error.h"

namespace lram::datasets {
namespace {
static_assert(std::endian::native == std::endian::little, "arrays are read in place");

// The array at `path` as T values; empty where the task has none.
template <typename T>
std::span<const T> values(const std::vector<Dataset::Array>& arrays, std::string_view path) {
  for (const Dataset::Array& array : arrays)
    if (array.spec.path == path)
      return {reinterpret_cast<const T*>(array.bytes.data()), array.bytes.size() / sizeof(T)};
  return {};
}

template <typename T>
std::span<const T> rows(std::span<const T> array, std::int64_t first, std::int64_t count,
                        std::int64_t width) {
  if (array.empty()) return {};
  return array.subspan(static_cast<std::size_t>(first * width),
                       static_cast<std::size_t>(count * width));
}
}  // namespace

Dataset::Dataset(const std::filesystem::path& path) : file_(path) {
  FileLayout layout = read_file_layout(path, file_.bytes());
  spec_ = std::move(layout.spec);
  generator_ = std::move(layout.generator);
  for (std::size_t i = 0; i < layout.arrays.size(); ++i) {
    const auto bytes = file_.bytes().subspan(
        layout.offsets[i], static_cast<std::size_t>(layout.arrays[i].num_bytes()));
    arrays_.push_back({std::move(layout.arrays[i]), bytes, layout.crcs[i]});
  }
  observations_ = values<float>(arrays_, "/observations");
  images_ = values<std::uint8_t>(arrays_, "/images");
  if (spec_.action.discrete)
    discrete_actions_ = values<std::int32_t>(arrays_, "/actions");
  else
    actions_ = values<float>(arrays_, "/actions");
  rewards_ = values<float>(arrays_, "/rewards");
  terminated_ = values<std::uint8_t>(arrays_, "/terminated");
  truncated_ = values<std::uint8_t>(arrays_, "/truncated");
  offsets_ = values<std::int64_t>(arrays_, "/episodes/offset");
  observation_offsets_ = values<std::int64_t>(arrays_, "/episodes/observation_offset");
  lengths_ = values<std::int64_t>(arrays_, "/episodes/length");
  seeds_ = values<std::uint64_t>(arrays_, "/episodes/seed");
  returns_ = values<double>(arrays_, "/episodes/return");
  variants_ = values<char>(arrays_, "/episodes/variant");
  variant_size_ = arrays_.back().spec.element_size;
  check_episode_table();
}

void Dataset::check_episode_table() const {
  const auto fail = [&](const char* column, std::size_t episode, std::int64_t found,
                        const std::string& wanted) {
    throw_error(ErrorKind::kInput, "{}: /episodes/{}[{}] is {}, wanted {}", path().string(), column,
                episode, found, wanted);
  };
  std::int64_t offset = 0;
  for (std::size_t e = 0; e < lengths_.size(); ++e) {
    const std::int64_t left = num_steps() - offset;
    if (offsets_[e] != offset) fail("offset", e, offsets_[e], std::to_string(offset));
    const std::int64_t row = offset + static_cast<std::int64_t>(e);
    if (observation_offsets_[e] != row)
      fail("observation_offset", e, observation_offsets_[e], std::to_string(row));
    if (lengths_[e] < 1 || lengths_[e] > left)
      fail("length", e, lengths_[e], fmt::format("1 to {}, the steps that are left", left));
    offset += lengths_[e];
  }
  if (offset != num_steps())
    throw_error(ErrorKind::kInput, "{}: /episodes/length adds up to {}, /rewards has {}",
                path().string(), offset, num_steps());
}

EpisodeView Dataset::episode(std::int64_t index) const {
  LRAM_CHECK(index >= 0 && index < num_episodes(), path().string(), " has ", num_episodes(),
             " episodes, asked for index ", index);
  const auto e = static_cast<std::size_t>(index);
  const std::int64_t first = offsets_[e], row = observation_offsets_[e], length = lengths_[e];
  const std::string_view variant(variants_.data() + index * variant_size_,
                                 static_cast<std::size_t>(variant_size_));
  return {rows(observations_, row, length + 1, spec_.observation.vector_size),
          rows(images_, row, length + 1, spec_.observation.image_size()),
          rows(actions_, first, length, spec_.action.size),
          rows(discrete_actions_, first, length, 1),
          rows(rewards_, first, length, 1),
          rows(terminated_, first, length, 1),
          rows(truncated_, first, length, 1),
          seeds_[e],
          returns_[e],
          variant.substr(0, variant.find('\0'))};
}
}  // namespace lram::datasets
