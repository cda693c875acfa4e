#pragma once

namespace tierstream {

/// From now on the process ends with one line that names the file, and exit code 2, when it touches pages of
/// the page-cache tier whose file was cut meanwhile: that raises SIGBUS. Other SIGBUS end it as they would.
///
/// For the whole process; called once by main, before other threads are started.
void install_cut_file_handler();

}  // namespace tierstream
