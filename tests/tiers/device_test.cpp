#include <gtest/gtest.h>
#include <tierstream/tiers/device.h>

#include <array>
#include <string>
#include <utility>

#include "support/fake_device.h"

namespace tierstream::testing {
namespace {

TEST(DeviceMemory, IsFreedOnceOtherMemoryTakesItsPlace) {
  FakeDevice device;
  DeviceMemory memory = device.allocate(8192);
  DeviceMemory next = device.allocate(4096);
  memory = std::move(next);
  EXPECT_EQ(device.allocated_bytes(), 4096u);
  EXPECT_EQ(memory.bytes(), 4096u);
}

TEST(HostRegistration, EndsOnceAnotherTakesItsPlace) {
  FakeDevice device;
  std::array<std::byte, 100> memory{};
  std::string refusal;
  HostRegistration registration =
      device.register_host(std::span(memory).first(60), refusal, HostAccess::kReadWrite);
  HostRegistration next = device.register_host(std::span(memory).last(40), refusal, HostAccess::kReadWrite);
  registration = std::move(next);
  EXPECT_EQ(device.registered_bytes(), 40u);
}

}  // namespace
}  // namespace tierstream::testing
