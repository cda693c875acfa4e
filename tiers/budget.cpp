#include <fmt/format.h>
#include <tierstream/io/error.h>
#include <tierstream/tiers/budget.h>
#include <tierstream/tiers/device.h>
#include <tierstream/tiers/memory_room.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <utility>

namespace tierstream {
namespace {

struct Unit {
  std::string_view name;
  std::uint64_t bytes;
};

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
constexpr std::array kUnits = {
    Unit{"B", 1},
    Unit{"KiB", 1ull << 10},
    Unit{"MiB", 1ull << 20},
    Unit{"GiB", 1ull << 30},
    Unit{"TiB", 1ull << 40},
    Unit{"KB", 1'000},
    Unit{"MB", 1'000'000},
    Unit{"GB", 1'000'000'000},
    Unit{"TB", 1'000'000'000'000},
};
constexpr std::string_view kUnitNames = "B, KiB, MiB, GiB, TiB, KB, MB, GB, TB";

constexpr std::uint64_t kMostReserveBytes = 1u << 30;  ///< left to the rest of the program

struct Tier {
  std::string_view name;
  std::uint64_t Budget::*bytes;
};

constexpr std::array kTiers = {
    Tier{"gpu", &Budget::gpu},
    Tier{"pinned", &Budget::pinned},
    Tier{"page_cache", &Budget::page_cache},
};
constexpr std::string_view kTierNames = "gpu, pinned, page_cache";

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kSpaces = " \t";
  const auto first = text.find_first_not_of(kSpaces);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kSpaces) - first + 1);
}

char lower(char letter) { return letter >= 'A' && letter <= 'Z' ? static_cast<char>(letter + 32) : letter; }

bool same_but_case(std::string_view a, std::string_view b) {
  return std::ranges::equal(a, b, {}, lower, lower);
}

[[noreturn]] void refuse(std::string_view text, std::string_view why) {
  throw Error(Errc::kInvalidBudget, fmt::format("\"{}\": {}", text, why));
}

/// Errors show `text`, of which `size` is a part.
std::uint64_t parse_size(std::string_view size, std::string_view text) {
  const std::string_view number = trimmed(size);
  const char* const end = number.data() + number.size();

  std::uint64_t whole = 0;
  auto [rest, status] = std::from_chars(number.data(), end, whole);
  if (status == std::errc::result_out_of_range) refuse(text, "more than 2^64 - 1 bytes");
  if (status != std::errc{}) refuse(text, "a size is a number and a unit, such as 1.5GiB");

  double fraction = 0;
  if (rest != end && *rest == '.') {
    const auto parsed = std::from_chars(rest, end, fraction, std::chars_format::fixed);
    if (parsed.ec != std::errc{}) refuse(text, "no digits after the point");
    rest = parsed.ptr;
  }

  const std::string_view unit_name = trimmed({rest, end});
  const auto unit = unit_name.empty() ? kUnits.begin() : std::ranges::find_if(kUnits, [&](const Unit& known) {
    return same_but_case(known.name, unit_name);
  });
  if (unit == kUnits.end()) {
    refuse(text, fmt::format("unknown unit \"{}\"; the units are {}", unit_name, kUnitNames));
  }

  constexpr auto kMost = std::numeric_limits<std::uint64_t>::max();
  const auto part = static_cast<std::uint64_t>(fraction * static_cast<double>(unit->bytes));
  if (whole > kMost / unit->bytes || whole * unit->bytes > kMost - part) {
    refuse(text, "more than 2^64 - 1 bytes");
  }
  return whole * unit->bytes + part;
}

}  // namespace

std::uint64_t parse_bytes(std::string_view text) { return parse_size(text, text); }

std::string format_bytes(std::uint64_t bytes) {
  if (bytes < 1024) return fmt::format("{} B", bytes);
  constexpr std::array kNames = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes) / 1024;
  std::size_t unit = 0;
  for (; value >= 1024; ++unit) value /= 1024;
  const int decimals = value < 10 ? 2 : value < 100 ? 1 : 0;
  return fmt::format("{:.{}f} {}", value, decimals, kNames[unit]);
}

std::uint64_t whole_mib(std::uint64_t bytes) noexcept { return bytes / kMiB + (bytes % kMiB == 0 ? 0 : 1); }

std::string format_least_bytes(std::uint64_t bytes) {
  if (bytes < kMiB) return counted(bytes, "byte");
  return fmt::format("{}MiB ({} bytes)", whole_mib(bytes), bytes);
}

std::string format_exactly(std::uint64_t bytes) {
  return bytes < 1024 ? format_bytes(bytes) : fmt::format("{} ({} bytes)", format_bytes(bytes), bytes);
}

Budget Budget::parse(std::string_view text) {
  Budget budget;
  std::array<bool, kTiers.size()> named{};
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::string_view entry = text.substr(begin, text.find(',', begin) - begin);
    begin += entry.size() + 1;
    const std::size_t equals = entry.find('=');
    if (equals == entry.npos) refuse(text, "a budget is written gpu=6GiB,pinned=512MiB");
    const std::string_view name = trimmed(entry.substr(0, equals));
    const auto tier = std::ranges::find(kTiers, name, &Tier::name);
    if (tier == kTiers.end()) {
      refuse(text, fmt::format("unknown tier \"{}\"; the tiers are {}", name, kTierNames));
    }
    if (std::exchange(named[static_cast<std::size_t>(tier - kTiers.begin())], true)) {
      refuse(text, fmt::format("{} is named twice", name));
    }
    const std::string_view size = entry.substr(equals + 1);
    if (size.find('=') != size.npos) refuse(text, "tiers are separated by commas");
    budget.*tier->bytes = parse_size(size, trimmed(entry));
  }
  return budget;
}

Budget Budget::detect(Device& device) {
  constexpr std::uint64_t kUsefulPinnedBytes = 256u << 20;
  const auto less_reserve = [](std::uint64_t bytes) {
    return bytes - std::min(bytes / 4, kMostReserveBytes);
  };
  const std::uint64_t host = less_reserve(host_memory_room().bytes);
  Budget budget;
  budget.pinned = std::min(kUsefulPinnedBytes, host / 8);
  budget.page_cache = host - budget.pinned;
  if (device.traits().is_host) {
    budget.gpu = budget.page_cache / 2;
    budget.page_cache -= budget.gpu;
  } else {
    budget.gpu = less_reserve(device.memory_room().bytes);
  }
  return budget;
}

Reservation::Reservation(Reservation&& other) noexcept
    : tier_(std::exchange(other.tier_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

Reservation& Reservation::operator=(Reservation&& other) noexcept {
  Reservation taken(std::move(other));
  std::swap(tier_, taken.tier_);
  std::swap(bytes_, taken.bytes_);
  return *this;
}

Reservation::~Reservation() {
  if (tier_ != nullptr) tier_->give_back(bytes_);
}

TierBudget::TierBudget(std::string name, std::uint64_t limit_bytes)
    : name_(std::move(name)), limit_bytes_(limit_bytes) {}

std::optional<Reservation> TierBudget::try_reserve(std::uint64_t bytes) {
  const std::uint64_t limit = limit_bytes();
  std::uint64_t used = used_bytes();
  do {
    if (used > limit || bytes > limit - used) return std::nullopt;
  } while (!used_bytes_.compare_exchange_weak(used, used + bytes, std::memory_order_relaxed));

  std::uint64_t peak = peak_bytes();
  while (peak < used + bytes &&
         !peak_bytes_.compare_exchange_weak(peak, used + bytes, std::memory_order_relaxed)) {
  }
  return Reservation(this, bytes);
}

Reservation TierBudget::reserve(std::uint64_t bytes, std::string_view purpose) {
  if (auto reservation = try_reserve(bytes)) return std::move(*reservation);
  const std::uint64_t limit = limit_bytes();
  throw Error(Errc::kBudgetTooSmall,
              fmt::format("{} needs {} of the {} budget; {} of {} are left", purpose, format_exactly(bytes),
                          name_, format_exactly(limit - std::min(limit, used_bytes())), format_bytes(limit)));
}

void TierBudget::give_back(std::uint64_t bytes) noexcept {
  used_bytes_.fetch_sub(bytes, std::memory_order_relaxed);
}

}  // namespace tierstream
