#include "app/command.hpp"
namespace jupiter {
ExitCode synth_command(const MpiSession&, const Arguments&) {
  return ExitCode::failed;
}
}  // namespace jupiter
