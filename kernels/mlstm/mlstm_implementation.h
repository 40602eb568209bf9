#pragma once
#include "kernels/mlstm/mlstm.h"

namespace lram::kernels {

/// One {form, path} of the mLSTM. mlstm.cpp validates every argument before it calls these and adds
/// nothing behind them; each is defined at the end of the file with its forward launcher.
struct MlstmImplementation {
  const char* name;
  /// Null where it takes the problem, else what it wants ("at most 256 tokens").
  const char* (*refuses)(const MlstmProblem&);
  std::size_t (*saved_bytes)(const MlstmProblem&);
  std::size_t (*forward_workspace_bytes)(const MlstmProblem&);
  std::size_t (*backward_workspace_bytes)(const MlstmProblem&);
  void (*forward)(const MlstmForward&);
  void (*backward)(const MlstmBackward&);
};

extern const MlstmImplementation kMlstmShortSm90;
extern const MlstmImplementation kMlstmShortPortable;
extern const MlstmImplementation kMlstmTiledSm90;
extern const MlstmImplementation kMlstmLongSm90;
extern const MlstmImplementation kMlstmLongPortable;

/// What kAuto resolves to (the table in README.md); throws as mlstm_forward does.
const MlstmImplementation& mlstm_implementation(const MlstmProblem& problem);

}  // namespace lram::kernels
