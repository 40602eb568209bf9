#include "lram/training/tensorboard.h"

#include <unistd.h>

#include <array>
#include <bit>
#include <chrono>
#include <climits>
#include <cstring>
#include <span>

#include "lram/core/crc32c.h"
#include "lram/core/error.h"

namespace lram::training {
namespace fs = std::filesystem;
namespace {
static_assert(std::endian::native == std::endian::little);

template <typename T>
void append_bytes(std::string& out, T value) {
  std::array<char, sizeof(T)> bytes;
  std::memcpy(bytes.data(), &value, sizeof(T));
  out.append(bytes.data(), bytes.size());
}

std::uint32_t masked_crc(std::string_view data) {
  return std::rotr(crc32c(std::as_bytes(std::span(data))), 15) + 0xa282ead8u;
}

// Protocol buffers: a field is a varint of (number << 3 | wire type) and its content.
enum WireType : std::uint64_t { kVarint = 0, kFixed64 = 1, kLengthDelimited = 2, kFixed32 = 5 };

void append_varint(std::string& out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
  out.push_back(static_cast<char>(value));
}

void append_key(std::string& out, std::uint64_t field, WireType type) {
  append_varint(out, field << 3 | type);
}

void append_text(std::string& out, std::uint64_t field, std::string_view text) {
  append_key(out, field, kLengthDelimited);
  append_varint(out, text.size());
  out.append(text);
}

std::string begin_event(double wall_time) {
  std::string event;
  append_key(event, 1, kFixed64);  // Event.wall_time
  append_bytes(event, wall_time);
  return event;
}

double now() {
  const auto since = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration<double>(since).count();
}

fs::path new_file(const fs::path& folder) {
  std::array<char, HOST_NAME_MAX + 1> host{};
  if (::gethostname(host.data(), host.size() - 1) != 0) host = {"localhost"};
  const std::string stem = fmt::format("events.out.tfevents.{}.{}.{}",
                                       static_cast<std::int64_t>(now()), host.data(), ::getpid());
  fs::path path = folder / stem;
  for (int n = 1; fs::exists(path); ++n) path = folder / fmt::format("{}.{}", stem, n);
  return path;
}
}  // namespace

std::string encode_record(std::string_view data) {
  std::string record;
  append_bytes(record, static_cast<std::uint64_t>(data.size()));
  append_bytes(record, masked_crc(record));
  record.append(data);
  append_bytes(record, masked_crc(data));
  return record;
}

std::string encode_version_event(double wall_time) {
  std::string event = begin_event(wall_time);
  append_text(event, 3, "brain.Event:2");  // Event.file_version
  return event;
}

std::string encode_scalar_event(double wall_time, std::int64_t step, std::string_view tag,
                                float value) {
  std::string entry;  // Summary.Value
  append_text(entry, 1, tag);
  append_key(entry, 2, kFixed32);  // simple_value, written even if 0
  append_bytes(entry, value);
  std::string summary;
  append_text(summary, 1, entry);  // Summary.value
  std::string event = begin_event(wall_time);
  if (step != 0) {  // proto3 leaves zeros out
    append_key(event, 2, kVarint);
    append_varint(event, static_cast<std::uint64_t>(step));
  }
  append_text(event, 5, summary);  // Event.summary
  return event;
}

EventWriter::EventWriter(const fs::path& folder)
    : file_(new_file(folder), OutputFile::Mode::kTruncate) {
  file_.write(encode_record(encode_version_event(now())));
}

void EventWriter::add_scalar(std::string_view tag, std::int64_t step, double value) {
  file_.write(encode_record(encode_scalar_event(now(), step, tag, static_cast<float>(value))));
}
}  // namespace lram::training
