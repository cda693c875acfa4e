#include <gtest/gtest.h>
#include <tierstream/adapters/torch/tensors.h>
#include <tierstream/io/error.h>
#include <tierstream/tiers/cpu_device.h>
#include <torch/types.h>

#include <array>

#include "support/thrown.h"

namespace tierstream {
namespace {

constexpr auto kLastDType = DType::kU64;

TEST(ScalarType, HasTheBitsOfTheDTypeItStandsFor) {
  int mapped = 0;
  for (int i = 0; i <= static_cast<int>(kLastDType); ++i) {
    const auto dtype = static_cast<DType>(i);
    if (const auto type = find_scalar_type(dtype)) {
      EXPECT_EQ(8 * c10::elementSize(*type), bits_per_element(dtype)) << name_of(dtype);
      ++mapped;
    }
  }
  EXPECT_EQ(mapped, 19);  // all but the three sub-byte types
}

TEST(ScalarType, OfASubByteTypeIsRefusedWithItsName) {
  EXPECT_EQ(thrown_by([] { to_scalar_type(DType::kF4); }),
            (Thrown{Errc::kUnknownDType, "torch has no dtype for F4"}));
}

TEST(Tensor, IsAViewOfTheStreamersMemory) {
  std::array<float, 6> memory{1, 2, 3, 4, 5, 6};
  const TensorSpec spec{
      .name = "w", .dtype = DType::kF32, .shape = {2, 3}, .bytes = 24, .source = FileExtent{0, 0}};
  const at::Tensor tensor =
      to_tensor({&spec, reinterpret_cast<std::byte*>(memory.data())}, to_torch_device(*make_cpu_device()));

  EXPECT_EQ(tensor.data_ptr(), memory.data());
  EXPECT_TRUE(at::equal(tensor, torch::tensor({{1, 2, 3}, {4, 5, 6}}, torch::kFloat)));
}

TEST(CurrentStream, OfTheCpuMeansNothing) { EXPECT_EQ(current_stream(at::kCPU), Stream{}); }

}  // namespace
}  // namespace tierstream
