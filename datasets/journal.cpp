#include "datasets/journal.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>

#include "lram/core/crc32c.h"
#include "lram/core/error.h"
#include "lram/core/json.h"

namespace lram::datasets {
namespace {
constexpr std::string_view kMagic = "LRAMPART";
constexpr std::uint32_t kVersion = 1;
constexpr std::uint32_t kRecordMagic = 0x4F535045;  // "EPSO" in the file

struct RecordHeader {
  std::uint32_t magic = kRecordMagic;
  std::uint32_t variant_size = 0;
  std::uint64_t length = 0;  // steps
  std::uint64_t seed = 0;
  std::uint64_t payload_size = 0;  // bytes behind this header, padding included
  std::uint32_t payload_crc = 0;
  std::uint32_t header_crc = 0;  // of all fields above
};
static_assert(sizeof(RecordHeader) <= kAlignment);

std::uint32_t header_crc(const RecordHeader& header) {
  return crc32c(std::as_bytes(std::span(&header, 1)).first(offsetof(RecordHeader, header_crc)));
}

std::uint64_t padded(std::uint64_t size) {
  return (size + kAlignment - 1) / kAlignment * kAlignment;
}

void append_padded(std::vector<std::byte>& out, std::span<const std::byte> bytes) {
  out.insert(out.end(), bytes.begin(), bytes.end());
  out.resize(padded(out.size()));
}

// The record header at the start of `bytes`, if there is a sound one.
std::optional<RecordHeader> record_header(std::span<const std::byte> bytes) {
  RecordHeader header;
  if (bytes.size() < kAlignment) return std::nullopt;
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.magic != kRecordMagic || header.header_crc != header_crc(header)) return std::nullopt;
  return header;
}

// Takes the arrays out of a payload one after the other.
class Payload {
 public:
  explicit Payload(std::span<const std::byte> bytes) : left_(bytes) {}

  template <typename T>
  std::span<const T> take(std::uint64_t count) {
    const std::span<const T> out(reinterpret_cast<const T*>(left_.data()), count);
    left_ = left_.subspan(padded(count * sizeof(T)));
    return out;
  }

 private:
  std::span<const std::byte> left_;
};

// Bytes of a payload; 0 where the numbers make no sense.
std::uint64_t payload_size(const TaskSpec& spec, const RecordHeader& header, std::uint64_t limit) {
  if (header.length < 1 || header.length > limit || header.variant_size > limit) return 0;
  const auto size = [&](std::int64_t width, std::uint64_t rows, std::uint64_t element) {
    return padded(static_cast<std::uint64_t>(width) * rows * element);
  };
  const std::uint64_t steps = header.length;
  return size(spec.observation.vector_size, steps + 1, 4) +
         size(spec.observation.image_size(), steps + 1, 1) +
         size(spec.action.discrete ? 1 : spec.action.size, steps, 4) + size(1, steps, 4) +
         2 * size(1, steps, 1) + padded(header.variant_size);
}
}  // namespace

std::string encode_journal_header(const TaskSpec& spec, const Generator& generator) {
  const std::string text = json_text(nlohmann::json{
      {"spec", spec}, {"generator", generator.name}, {"generator_version", generator.version}});
  std::string out(kMagic);
  const auto put = [&](std::uint32_t value) {
    out.append(reinterpret_cast<const char*>(&value), sizeof value);
  };
  put(kVersion);
  put(static_cast<std::uint32_t>(text.size()));
  out += text;
  put(crc32c(std::as_bytes(std::span(out))));
  out.resize(padded(out.size()));
  return out;
}

std::vector<std::byte> encode_episode(const EpisodeView& episode) {
  std::vector<std::byte> out(kAlignment);
  append_padded(out, std::as_bytes(episode.observations));
  append_padded(out, std::as_bytes(episode.images));
  append_padded(out, std::as_bytes(episode.actions));
  append_padded(out, std::as_bytes(episode.discrete_actions));
  append_padded(out, std::as_bytes(episode.rewards));
  append_padded(out, std::as_bytes(episode.terminated));
  append_padded(out, std::as_bytes(episode.truncated));
  append_padded(out, std::as_bytes(std::span(episode.variant)));
  RecordHeader header;
  header.variant_size = static_cast<std::uint32_t>(episode.variant.size());
  header.length = static_cast<std::uint64_t>(episode.length());
  header.seed = episode.seed;
  header.payload_size = out.size() - kAlignment;
  header.payload_crc = crc32c(std::span(out).subspan(kAlignment));
  header.header_crc = header_crc(header);
  std::memcpy(out.data(), &header, sizeof header);
  return out;
}

Journal::Journal(const std::filesystem::path& path) : file_(path) {
  read_header();
  while (read_episode()) {
  }
  // A torn write is the last thing in the file. With a sound record behind it, it is damage.
  const auto tail = file_.bytes().subspan(complete_bytes_);
  for (std::uint64_t at = kAlignment; at < tail.size(); at += kAlignment)
    if (record_header(tail.subspan(at)))
      throw_error(ErrorKind::kInput,
                  "{}: episode {} at byte {} is corrupt, and more follow at byte {}: damaged, not "
                  "cut off",
                  path.string(), episodes_.size(), complete_bytes_, complete_bytes_ + at);
}

void Journal::read_header() {
  const auto fail = [&](const std::string& what) {
    throw_error(ErrorKind::kInput, "{}: {}", path().string(), what);
  };
  const auto bytes = file_.bytes();
  constexpr std::size_t kFixed = kMagic.size() + 2 * sizeof(std::uint32_t);
  if (bytes.size() < kFixed || std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) != 0)
    fail("does not begin as a journal of LRAM does");
  const auto number = [&](std::size_t at) {
    std::uint32_t value;
    std::memcpy(&value, bytes.data() + at, sizeof value);
    return value;
  };
  if (const auto version = number(kMagic.size()); version != kVersion)
    fail(fmt::format("journal version is {}, this program reads {}", version, kVersion));
  const std::size_t text_end = kFixed + number(kMagic.size() + sizeof(std::uint32_t));
  if (text_end + sizeof(std::uint32_t) > bytes.size() || padded(text_end + 4) > bytes.size())
    fail(fmt::format("header of {} bytes, the file has {}", text_end + 4, bytes.size()));
  if (number(text_end) != crc32c(bytes.first(text_end))) fail("the header's CRC32C does not fit");
  try {
    const auto text = parse_json(
        std::string_view(reinterpret_cast<const char*>(bytes.data()) + kFixed, text_end - kFixed));
    spec_ = text.at("spec").get<TaskSpec>();
    generator_ = {text.at("generator"), text.at("generator_version")};
  } catch (const std::exception& error) {
    fail(fmt::format("header: {}", error.what()));
  }
  if (const std::string problem = storage_problem(spec_); !problem.empty()) fail(problem);
  complete_bytes_ = padded(text_end + sizeof(std::uint32_t));
}

bool Journal::read_episode() {
  const auto left = file_.bytes().subspan(complete_bytes_);
  const auto header = record_header(left);
  if (!header) return false;
  const std::uint64_t size = payload_size(spec_, *header, left.size());
  if (size == 0 || size != header->payload_size || size > left.size() - kAlignment) return false;
  const auto bytes = left.subspan(kAlignment, size);
  if (crc32c(bytes) != header->payload_crc) return false;
  const std::uint64_t steps = header->length;
  const auto width = [](std::int64_t value) { return static_cast<std::uint64_t>(value); };
  Payload payload(bytes);
  EpisodeView episode;
  episode.observations = payload.take<float>((steps + 1) * width(spec_.observation.vector_size));
  episode.images = payload.take<std::uint8_t>((steps + 1) * width(spec_.observation.image_size()));
  if (spec_.action.discrete)
    episode.discrete_actions = payload.take<std::int32_t>(steps);
  else
    episode.actions = payload.take<float>(steps * width(spec_.action.size));
  episode.rewards = payload.take<float>(steps);
  episode.terminated = payload.take<std::uint8_t>(steps);
  episode.truncated = payload.take<std::uint8_t>(steps);
  const auto variant = payload.take<char>(header->variant_size);
  episode.variant = {variant.data(), variant.size()};
  episode.seed = header->seed;
  episode.episode_return = undiscounted_return(episode.rewards);
  episodes_.push_back(episode);
  complete_bytes_ += kAlignment + size;
  return true;
}
}  // namespace lram::datasets
