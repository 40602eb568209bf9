#pragma once
#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <string>

namespace lram::test {

/// A fresh folder that goes with the object.
class TempFolder {
 public:
  TempFolder() {
    const std::string filled_by_mkdtemp(6, 'X');
    std::string pattern =
        (std::filesystem::temp_directory_path() / ("lram." + filled_by_mkdtemp)).string();
    if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp " + pattern);
    path_ = pattern;
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace lram::test
