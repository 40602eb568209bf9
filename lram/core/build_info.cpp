#include "lram/core/build_info.h"

#include <fstream>
#include <thread>

#include "lram/core/build_config.h"

namespace lram {
std::vector<std::pair<std::string, std::string>> build_info() {
  return {{"lram", LRAM_VERSION " (" LRAM_GIT_COMMIT ")"},
          {"compiler", LRAM_COMPILER},
          {"build type", LRAM_BUILD_TYPE},
          {"LibTorch", LRAM_TORCH_VERSION},
          {"CUDA", LRAM_CUDA_VERSION},
          {"HDF5", LRAM_HDF5_VERSION},
          {"MuJoCo", LRAM_MUJOCO_VERSION}};
}

std::vector<std::pair<std::string, std::string>> hardware_info() {
  std::string name = "unknown";
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) == 0) {
      name = line.substr(line.find(':') + 2);
      break;
    }
  }
  return {{"cpu", name}, {"cores", std::to_string(std::thread::hardware_concurrency())}};
}

std::string one_line(const std::vector<std::pair<std::string, std::string>>& info) {
  std::string line;
  for (const auto& [name, value] : info) line += (line.empty() ? "" : ", ") + name + ": " + value;
  return line;
}
}  // namespace lram
