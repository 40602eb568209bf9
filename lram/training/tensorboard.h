#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "lram/core/file.h"

namespace lram::training {

/// One TensorBoard record around `data`: length, masked CRC32C of the length, data, masked CRC32C
/// of the data, little endian (TensorFlow's record_writer).
std::string encode_record(std::string_view data);
/// An Event message with the file's version, which opens every file. `wall_time` in seconds of
/// 1970.
std::string encode_version_event(double wall_time);
/// An Event message with one scalar.
std::string encode_scalar_event(double wall_time, std::int64_t step, std::string_view tag,
                                float value);

/// Appends scalars to a TensorBoard event file; the messages are encoded by hand, without protobuf.
///   EventWriter events("runs/small");  // runs/small/events.out.tfevents.<seconds>.<host>.<pid>
///   events.add_scalar("train/loss", step, loss);
/// Every write goes straight to the file, so a crash loses nothing. Throws Error(kResource).
class EventWriter {
 public:
  explicit EventWriter(const std::filesystem::path& folder);

  void add_scalar(std::string_view tag, std::int64_t step, double value);
  const std::filesystem::path& path() const { return file_.path(); }

 private:
  OutputFile file_;
};

}  // namespace lram::training
