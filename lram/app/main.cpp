// The command `lram`: a table of verbs. Verbs that need LibTorch are programs of their own beside
// this one, which it executes, so that the others start in milliseconds.
#include <fmt/core.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "lram/app/verb.h"
#include "lram/core/build_info.h"
#include "lram/core/error.h"

namespace {
using lram::app::Args;

struct Verb {
  const char* name;     // one or two words
  const char* summary;  // for --help
  lram::app::VerbFunction function;
  const char* program;  // where `function` is null
};

const std::vector<Verb> kVerbs = {
    {"env ls", "the built-in tasks", lram::app::env_ls, nullptr},
    {"env show", "what a task observes and how it acts", lram::app::env_show, nullptr},
    {"bench env", "steps per second beside a bare mj_step loop", lram::app::bench_env, nullptr},
    {"data collect", "record episodes of an expert", lram::app::data_collect, nullptr},
    {"data ls", "data sets in a folder", lram::app::data_ls, nullptr},
    {"data show", "task, statistics and episodes of a data set", lram::app::data_show, nullptr},
    {"data validate", "look at every value of data sets", lram::app::data_validate, nullptr},
    {"train", "a policy from data sets", nullptr, "lram-train"},
    {"models", "parameters, state, FLOPs and bytes of the recipes", nullptr, "lram-models"},
    {"eval", "scores of a policy in the simulator", nullptr, "lram-eval"},
#ifdef LRAM_HAVE_KERNELS
    {"bench kernels", "CUDA kernels against cuDNN and their floor", nullptr, "lram-bench-kernels"},
#endif
    {"bench step", "time per environment step against context length", nullptr, "lram-bench-step"},
    {"probe", "what each cell can learn, beside the papers' claims", nullptr, "lram-probe"},
    {"ckpt show", "tensors, config, tasks and step of a checkpoint or weights",
     lram::app::ckpt_show, nullptr},
    {"ckpt verify", "checksums, format, shapes and values of a checkpoint or weights", nullptr,
     "lram-ckpt-verify"},
    {"ckpt convert", "weights to and from the names of public packages", lram::app::ckpt_convert,
     nullptr},
    {"report", "one HTML page about a training run", lram::app::report, nullptr},
};

void print_help() {
  fmt::print(
      "usage: lram VERB [options]\n\n"
      "Large recurrent action models: collect data, train, evaluate and time one policy over many\n"
      "domains.\n\nverbs:\n");
  for (const Verb& verb : kVerbs) fmt::print("  {:<14} {}\n", verb.name, verb.summary);
  fmt::print(
      "\n  lram VERB --help   options of a verb\n"
      "  lram --version     what this program was built from\n\n"
      "exit codes: 0 done, 1 a check ran and failed, 2 usage, config or unknown task, 3 missing "
      "or\n"
      "wrong file, 4 disk, memory or device, 5 internal error, 130/143 stopped by SIGINT/SIGTERM\n"
      "after saving\n");
}

int execute(const Verb& verb, const Args& args) {
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe");
  const std::string program = self.parent_path() / verb.program;
  std::vector<char*> argv = {const_cast<char*>(program.c_str())};
  for (const std::string& arg : args) argv.push_back(const_cast<char*>(arg.c_str()));
  argv.push_back(nullptr);
  // Threads of LibTorch that spin while they wait make training 5 times slower on a busy machine.
  ::setenv("OMP_WAIT_POLICY", "PASSIVE", /*overwrite=*/0);
  ::execv(program.c_str(), argv.data());
  lram::throw_error(lram::ErrorKind::kInput, "{}: cannot run: {}", program, std::strerror(errno));
}

int dispatch(const Args& args) {
  if (args.empty() || args[0] == "--help" || args[0] == "-h" || args[0] == "help") {
    print_help();
    return args.empty() ? static_cast<int>(lram::ErrorKind::kUsage) : 0;
  }
  if (args[0] == "--version") {
    for (const auto& [name, version] : lram::build_info()) fmt::print("{}: {}\n", name, version);
    return 0;
  }
  std::vector<std::string> names, group;  // group: verbs whose first word fits
  for (const Verb& verb : kVerbs) {
    const std::string name = verb.name;
    names.push_back(name);
    const auto space = name.find(' ');
    const bool two = space != std::string::npos;
    if (two && name.substr(0, space) == args[0]) {
      group.push_back(name);
      if (args.size() < 2 || name.substr(space + 1) != args[1]) continue;
    } else if (name != args[0]) {
      continue;
    }
    const Args rest(args.begin() + (two ? 2 : 1), args.end());
    if (verb.function == nullptr) return execute(verb, rest);
    return lram::app::run_verb("lram " + name, verb.function, rest);
  }
  if (!group.empty() && (args.size() < 2 || args[1] == "--help" || args[1] == "-h")) {
    fmt::print("usage: lram {} VERB [options]\n\nverbs:\n", args[0]);
    for (const Verb& verb : kVerbs)
      for (const std::string& name : group)
        if (name == verb.name) fmt::print("  {:<14} {}\n", verb.name, verb.summary);
    return args.size() < 2 ? static_cast<int>(lram::ErrorKind::kUsage) : 0;
  }
  const std::string wanted = group.empty() ? args[0] : args[0] + " " + args[1];
  const std::string near = lram::nearest_name(wanted, group.empty() ? names : group);
  lram::throw_error(
      lram::ErrorKind::kUsage, "unknown verb '{}'{}", wanted,
      near.empty() ? ", see lram --help" : fmt::format(", did you mean 'lram {}'?", near));
}
}  // namespace

int main(int argc, char** argv) {
  return lram::app::run_verb("lram", dispatch, Args(argv + 1, argv + argc));
}
