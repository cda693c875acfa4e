#include "tools/device_choice.h"

#include <fmt/format.h>
#include <tierstream/io/error.h>
#include <tierstream/tiers/cpu_device.h>

#include <charconv>
#include <optional>
#include <string_view>

#if TIERSTREAM_HAS_CUDA
#include <tierstream/tiers/cuda/cuda_device.h>
#endif

namespace tierstream {
namespace {

/// The N of "cuda:N"; 0 for "cuda"; empty for any other name.
std::optional<int> cuda_ordinal(std::string_view name) {
  if (name == "cuda") return 0;
  if (!name.starts_with("cuda:")) return {};
  const std::string_view digits = name.substr(5);
  unsigned short ordinal = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), ordinal);
  if (error != std::errc() || end != digits.data() + digits.size()) return {};
  return ordinal;
}

bool has_cuda() {
#if TIERSTREAM_HAS_CUDA
  return cuda_device_count() > 0;
#else
  return false;
#endif
}

std::shared_ptr<Device> make_cuda(int ordinal) {
#if TIERSTREAM_HAS_CUDA
  return make_cuda_device(ordinal);
#else
  throw Error(Errc::kDeviceFailed,
              fmt::format("no device cuda:{}: this tierstream was built without CUDA", ordinal));
#endif
}

}  // namespace

std::shared_ptr<Device> make_device(const std::string& name, bool reads_land) {
  if (name == "cpu" || (name.empty() && !has_cuda())) return make_cpu_device({.reads_land = reads_land});
  if (name.empty()) return make_cuda(0);
  if (const std::optional<int> ordinal = cuda_ordinal(name)) {
    try {
      return make_cuda(*ordinal);
    } catch (const Error& error) {
      if (has_cuda()) throw;
      throw Error(error.errc(), std::string(error.what()) + "; --device cpu works without one");
    }
  }
  throw Error(Errc::kInvalidArgument,
              fmt::format("unknown device \"{}\": cpu, cuda and cuda:N are known", name));
}

}  // namespace tierstream
