#pragma once

#include <tierstream/io/error.h>

#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

namespace tierstream {

/// A thread that does `work`, as std::jthread makes it. `purpose` stands in the message: "copies". Throws
/// Error kOutOfMemory where the system has no room for another thread.
template <typename Work>
std::jthread start_thread(std::string_view purpose, Work&& work) {
  try {
    return std::jthread(std::forward<Work>(work));
  } catch (const std::system_error& failure) {
    throw Error(Errc::kOutOfMemory, "cannot start a thread for " + std::string(purpose), {}, failure.code());
  }
}

}  // namespace tierstream
