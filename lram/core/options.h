#pragma once
#include <boost/program_options.hpp>
#include <cstdint>
#include <string>
#include <vector>

namespace lram {
namespace po = boost::program_options;

/// The command line of one verb, and the INI recipe that it may name.
///   CommandLine line("lram eval --checkpoint DIR --task T[,T]", "Scores a policy in the
///   simulator."); line.options().add_options()("episodes", po::value(&n)->default_value(n),
///   "episodes per task"); if (!line.parse(args)) return 0;  // --help was printed
/// An unknown option or recipe key throws Error(kUsage) with the nearest known name.
class CommandLine {
 public:
  CommandLine(std::string usage, std::string about);

  po::options_description& options() { return options_; }
  /// A bare argument fills this option; `max_count` -1 takes all that follow.
  void positional(const char* option, int max_count = 1) { positional_.add(option, max_count); }
  /// Adds --recipe FILE: an INI file whose keys are the options with a dot in their name. The
  /// command line is stored first and so wins.
  void allow_recipe() { allow_recipe_ = true; }

  /// False after printing --help to stdout.
  bool parse(const std::vector<std::string>& args);
  bool given(const char* option) const {
    return values_.count(option) && !values_[option].defaulted();
  }
  /// The file that --recipe named, "" without one.
  std::string recipe() const {
    return values_.count("recipe") ? values_["recipe"].as<std::string>() : std::string();
  }
  /// Every option with a dot in its name and its value, as an INI file that, fed back as a
  /// recipe, gives the same values.
  std::string resolved_ini() const;

 private:
  std::string usage_, about_;
  po::options_description options_;
  po::positional_options_description positional_;
  po::variables_map values_;
  bool allow_recipe_ = false;
};

/// "a,b" -> {"a", "b"}; empty entries are refused with Error(kUsage) that names `option`.
std::vector<std::string> split_list(const std::string& text, const char* option);

/// Refuses a count of threads outside of `least` to 1024, among them a negative one that was read
/// as unsigned, with Error(kUsage) that names `option`.
void check_threads(std::int64_t count, std::int64_t least = 0, const char* option = "--threads");

}  // namespace lram
