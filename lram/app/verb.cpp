#include "lram/app/verb.h"

#include <cstdio>
#include <new>

#include "lram/core/error.h"

namespace lram::app {
int run_verb(const std::string& name, VerbFunction verb, const Args& args) {
  const auto complain = [&](const char* text, ErrorKind kind) {
    fmt::print(stderr, "{}: {}\n", name, text);
    return static_cast<int>(kind);
  };
  try {
    const int code = verb(args);
    if (std::fflush(stdout) != 0) return complain("cannot write to stdout", ErrorKind::kResource);
    return code;
  } catch (const Error& error) {
    return complain(error.what(), error.kind());
  } catch (const std::bad_alloc&) {
    return complain("out of memory", ErrorKind::kResource);
  } catch (const std::exception& error) {
    return complain(error.what(), ErrorKind::kInternal);
  }
}
}  // namespace lram::app
