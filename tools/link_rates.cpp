#include "tools/link_rates.h"

#include <fmt/format.h>
#include <tierstream/io/error.h>
#include <tierstream/tiers/budget.h>

#include <string>
#include <string_view>
#include <vector>

#include "tools/progress_bar.h"

namespace tierstream {
namespace {

std::vector<std::string> paths_of(const Checkpoint& checkpoint) {
  std::vector<std::string> paths;
  for (const SourceFile& file : checkpoint.files()) paths.push_back(file.path);
  return paths;
}

}  // namespace

LinkRates parse_rates(std::span<const std::string> entries) {
  LinkRates rates;
  for (const std::string& entry : entries) {
    const auto refuse = [&](std::string_view why) {
      throw Error(Errc::kInvalidArgument, fmt::format("--rates \"{}\": {}", entry, why));
    };
    const std::size_t equals = entry.find('=');
    const std::string_view name = std::string_view(entry).substr(0, equals);
    if (equals == entry.npos) refuse("rates are written disk=1.7GB,host_to_device=50GB, in bytes a second");
    if (name != "disk" && name != "host_to_device") {
      refuse(fmt::format("unknown link \"{}\"; the links are disk, host_to_device", name));
    }
    double& rate = name == "disk" ? rates.disk : rates.host_to_device;
    if (rate > 0) refuse("the link is named twice");
    try {
      rate = static_cast<double>(parse_bytes(std::string_view(entry).substr(equals + 1)));
    } catch (const Error&) {
      refuse("a rate is bytes a second, such as 1.7GB");
    }
    if (rate == 0) refuse("a link gives more than nothing");
  }
  return rates;
}

MeasuredRates measure_rates(const Checkpoint& checkpoint, Device& device, const std::stop_token& stop) {
  const std::vector<std::string> files = paths_of(checkpoint);
  JobBar bar;
  const LinkProbeOptions options{.progress = [&](const std::string& job, std::uint64_t done,
                                                 std::uint64_t total) { bar.update(job, done, total); },
                                 .stop = stop};
  MeasuredRates measured;
  measured.disk = probe_reads(files, options);
  measured.host_to_device = probe_device(device, options).host_to_device;
  return measured;
}

}  // namespace tierstream
