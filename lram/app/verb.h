#pragma once
#include <string>
#include <vector>

namespace lram::app {
using Args = std::vector<std::string>;

/// What a verb's code looks like: reads options, calls the library, prints; returns the exit code.
using VerbFunction = int (*)(const Args&);

/// Runs a verb and turns what it throws into one line on stderr and the documented exit code.
int run_verb(const std::string& name, VerbFunction verb, const Args& args);

// Verbs without LibTorch, which live in the program `lram` itself.
int ckpt_convert(const Args& args);   // lram/weights/app/convert.cpp
int ckpt_show(const Args& args);      // lram/weights/app/show.cpp
int data_collect(const Args& args);   // datasets/app/collect.cpp
int data_ls(const Args& args);        // datasets/app/ls.cpp
int data_show(const Args& args);      // datasets/app/show.cpp
int data_validate(const Args& args);  // datasets/app/validate.cpp
int env_ls(const Args& args);         // envs/app/list.cpp
int env_show(const Args& args);       // envs/app/list.cpp
int bench_env(const Args& args);      // envs/app/bench.cpp
int report(const Args& args);         // eval/app/report.cpp

}  // namespace lram::app
