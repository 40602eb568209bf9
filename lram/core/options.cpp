#include "lram/core/options.h"

#include <cstdint>
#include <iostream>
#include <map>
#include <sstream>

#include "lram/core/error.h"
#include "lram/core/file.h"

namespace lram {
namespace {
std::vector<std::string> known_names(const po::options_description& options, bool keys_only) {
  std::vector<std::string> names;
  for (const auto& option : options.options())
    if (!keys_only || option->long_name().find('.') != std::string::npos)
      names.push_back(option->long_name());
  return names;
}

[[noreturn]] void refuse_unknown(const std::string& where, const std::string& name,
                                 const std::vector<std::string>& known, const char* prefix) {
  const std::string near = nearest_name(name, known);
  throw_error(ErrorKind::kUsage, "{}unknown {} '{}{}'{}", where, *prefix ? "option" : "key", prefix,
              name,
              near.empty() ? ", see --help" : fmt::format(", did you mean '{}{}'?", prefix, near));
}

std::string strip_dashes(std::string name) {
  name.erase(0, name.find_first_not_of('-'));
  return name.substr(0, name.find('='));
}

template <typename T>
bool print_as(std::string& out, const boost::any& value) {
  const T* typed = boost::any_cast<T>(&value);
  if (typed != nullptr) out = fmt::format("{}", *typed);
  return typed != nullptr;
}

// Boost reads "-1" as a huge unsigned number.
void refuse_negative_counts(const po::parsed_options& parsed) {
  for (const auto& given : parsed.options) {
    if (given.value.empty() || !given.value.front().starts_with('-')) continue;
    const auto* option = parsed.description->find_nothrow(given.string_key, false);
    const auto* typed = option == nullptr
                            ? nullptr
                            : dynamic_cast<const po::typed_value_base*>(option->semantic().get());
    if (typed != nullptr && typed->value_type() == typeid(std::uint64_t))
      throw_error(ErrorKind::kUsage, "--{} is {}, wanted 0 or more", given.string_key,
                  given.value.front());
  }
}

std::string to_text(const std::string& name, const boost::any& value) {
  std::string out;
  const bool known = print_as<std::string>(out, value) || print_as<bool>(out, value) ||
                     print_as<int>(out, value) || print_as<std::int64_t>(out, value) ||
                     print_as<std::uint64_t>(out, value) || print_as<double>(out, value) ||
                     print_as<float>(out, value);
  if (!known) throw_error(ErrorKind::kInternal, "option '{}' has a type that no INI holds", name);
  if (out.find_first_of("#\n") != std::string::npos)
    throw_error(ErrorKind::kUsage,
                "{} is '{}', wanted no '#' and no line break: a recipe ends there", name, out);
  return out;
}
}  // namespace

CommandLine::CommandLine(std::string usage, std::string about)
    : usage_(std::move(usage)), about_(std::move(about)), options_("options", 100, 50) {}

bool CommandLine::parse(const std::vector<std::string>& args) {
  options_.add_options()("help,h", "this text");
  if (allow_recipe_)
    options_.add_options()("recipe", po::value<std::string>(),
                           "INI file with any of the keys below");
  namespace style = po::command_line_style;
  try {
    const po::parsed_options parsed = po::command_line_parser(args)
                                          .options(options_)
                                          .positional(positional_)
                                          .style(style::unix_style & ~style::allow_guessing)
                                          .run();
    refuse_negative_counts(parsed);
    po::store(parsed, values_);
    if (values_.count("help")) {
      std::cout << "usage: " << usage_ << "\n\n" << about_ << "\n\n" << options_;
      return false;
    }
    if (values_.count("recipe")) {
      const auto path = values_["recipe"].as<std::string>();
      std::istringstream file(read_file(path));
      po::options_description keys;
      for (const auto& option : options_.options())
        if (option->long_name().find('.') != std::string::npos) keys.add(option);
      try {
        const po::parsed_options recipe = po::parse_config_file(file, keys);
        refuse_negative_counts(recipe);
        po::store(recipe, values_);
      } catch (const po::unknown_option& error) {
        refuse_unknown(path + ": ", error.get_option_name(), known_names(options_, true), "");
      } catch (const po::error& error) {
        throw_error(ErrorKind::kUsage, "{}: {}", path, error.what());
      }
    }
    po::notify(values_);
  } catch (const po::unknown_option& error) {
    refuse_unknown("", strip_dashes(error.get_option_name()), known_names(options_, false), "--");
  } catch (const po::too_many_positional_options_error&) {
    throw_error(ErrorKind::kUsage, "too many arguments, usage: {}", usage_);
  } catch (const po::error& error) {
    throw_error(ErrorKind::kUsage, "{}", error.what());
  }
  return true;
}

std::string CommandLine::resolved_ini() const {
  std::map<std::string, std::string> sections;
  for (const std::string& name : known_names(options_, true)) {
    if (!values_.count(name)) continue;
    const auto dot = name.find('.');
    sections[name.substr(0, dot)] +=
        fmt::format("{} = {}\n", name.substr(dot + 1), to_text(name, values_[name].value()));
  }
  std::string out;
  for (const auto& [section, lines] : sections) out += fmt::format("[{}]\n{}\n", section, lines);
  return out;
}

std::vector<std::string> split_list(const std::string& text, const char* option) {
  std::vector<std::string> out;
  std::istringstream stream(text);
  for (std::string entry; std::getline(stream, entry, ',');) {
    if (entry.empty()) throw_error(ErrorKind::kUsage, "{}: empty entry in '{}'", option, text);
    out.push_back(entry);
  }
  if (out.empty()) throw_error(ErrorKind::kUsage, "{} is empty", option);
  return out;
}

void check_threads(std::int64_t count, std::int64_t least, const char* option) {
  constexpr std::int64_t kMost = 1024;
  if (count < least || count > kMost)
    throw_error(ErrorKind::kUsage, "{} is {}, wanted {} to {}", option, count, least, kMost);
}
}  // namespace lram
