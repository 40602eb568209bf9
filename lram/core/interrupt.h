#pragma once

namespace lram {

/// From here on SIGINT and SIGTERM ask for a clean stop instead of ending the process; a second
/// one ends it at once. Long loops poll interrupted() at their safe points.
void catch_interrupts();

/// The signal that asked for a stop, or 0.
int interrupted();

/// Exit code after a clean stop: 130 for SIGINT, 143 for SIGTERM (128 + signal).
inline int interrupt_exit_code() { return 128 + interrupted(); }

}  // namespace lram
