#include "lram/training/checkpoint.h"

#include <algorithm>
#include <cctype>
#include <string>
#include <system_error>
#include <utility>

#include "lram/core/error.h"
#include "lram/core/file.h"
#include "lram/core/log.h"
#include "lram/core/manifest.h"

namespace lram::training {
namespace fs = std::filesystem;
namespace {
constexpr std::size_t kDigits = 9;

std::string name_of(std::int64_t step) { return fmt::format("{:09d}", step); }

bool is_checkpoint_name(const std::string& name) {
  return name.size() >= kDigits &&
         std::all_of(name.begin(), name.end(), [](unsigned char c) { return std::isdigit(c); });
}

fs::path with_suffix(const fs::path& path, const char* suffix) { return path.string() + suffix; }
}  // namespace

CheckpointFolder::CheckpointFolder(fs::path folder, std::int64_t keep)
    : folder_(std::move(folder)), keep_(keep) {
  LRAM_CHECK(keep >= 0, "checkpoints to keep is ", keep, ", wanted 0 (all) or more");
}

fs::path CheckpointFolder::path_of(std::int64_t step) const { return folder_ / name_of(step); }

fs::path CheckpointFolder::write(std::int64_t step,
                                 const std::function<void(const fs::path&)>& fill) {
  make_folder(folder_);
  remove_litter();
  const fs::path path = path_of(step), beside = with_suffix(path, ".new");
  try {
    make_folder(beside);
    fill(beside);
    write_manifest(beside);
    if (fs::exists(path)) remove_checkpoint(step);  // a run that is repeated from an older one
    rename_durably(beside, path);
  } catch (...) {
    std::error_code ignored;
    fs::remove_all(beside, ignored);
    throw;
  }
  point_last_at(step);
  const auto all = steps();
  const auto count = static_cast<std::int64_t>(all.size());
  for (std::int64_t i = 0; keep_ > 0 && i < count - keep_; ++i)
    remove_checkpoint(all[static_cast<std::size_t>(i)]);
  return path;
}

std::optional<fs::path> CheckpointFolder::newest_whole() const {
  const auto all = steps();
  for (auto step = all.rbegin(); step != all.rend(); ++step) {
    try {
      verify_manifest(path_of(*step));
      return path_of(*step);
    } catch (const Error& error) {
      log_warning("checkpoint {} is broken, trying the one before: {}", name_of(*step),
                  error.what());
    }
  }
  return std::nullopt;
}

std::vector<std::int64_t> CheckpointFolder::steps() const {
  std::vector<std::int64_t> out;
  if (!fs::is_directory(folder_)) return out;
  for (const auto& item : fs::directory_iterator(folder_)) {
    const std::string name = item.path().filename();
    if (is_checkpoint_name(name)) out.push_back(std::stoll(name));
  }
  std::sort(out.begin(), out.end());
  return out;
}

void CheckpointFolder::remove_litter() const {
  for (const auto& item : fs::directory_iterator(folder_)) {
    const std::string extension = item.path().extension();
    if (extension == ".new" || extension == ".old") fs::remove_all(item.path());
  }
}

void CheckpointFolder::remove_checkpoint(std::int64_t step) const {
  const fs::path old = with_suffix(path_of(step), ".old");  // so that no half of it keeps its name
  fs::rename(path_of(step), old);
  fs::remove_all(old);
}

void CheckpointFolder::point_last_at(std::int64_t step) const {
  const fs::path beside = folder_ / "last.new";
  try {
    fs::create_symlink(name_of(step), beside);
    rename_durably(beside, folder_ / "last");
  } catch (const fs::filesystem_error& error) {
    throw_error(ErrorKind::kResource, "{}: cannot link: {}", beside.string(),
                error.code().message());
  } catch (...) {
    std::error_code ignored;
    fs::remove(beside, ignored);
    throw;
  }
}
}  // namespace lram::training
