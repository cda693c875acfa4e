#include "tools/run_report.h"

#include <gmock/gmock.h>

#include "support/byte_units.h"

namespace tierstream {
namespace {

using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

TEST(RunReport, TellsHowPagesAreKept) {
  RunReport report;
  report.kept_bytes = 64 * kMiB;
  report.page_cache.locked_bytes = 64 * kMiB;
  report.page_cache.registered_bytes = 64 * kMiB;
  EXPECT_THAT(describe_end(report),
              StartsWith("kept    64.0 MiB of pages, 64.0 MiB locked, 64.0 MiB registered\npeak "));
}

TEST(RunReport, TellsWhyPagesAreNotKeptForSureAndHowManyWereLost) {
  RunReport report;
  report.kept_bytes = 64 * kMiB;
  report.page_cache = {.lock_refusal = "mlock of 32.0 MiB: no",
                       .registration_refusal = "cudaHostRegister\nof 32.0 MiB: no",
                       .locked_bytes = 32 * kMiB,
                       .registered_bytes = 0,
                       .lost_bytes = 3 * kMiB};
  EXPECT_THAT(describe_end(report),
              StartsWith("kept    64.0 MiB of pages, 32.0 MiB locked, 0 B registered\n"
                         "        not all locked: mlock of 32.0 MiB: no\n"
                         "        not all registered: cudaHostRegister\\x0aof 32.0 MiB: no\n"
                         "        lost 3.00 MiB and read them again\n"));
  const nlohmann::json kept = to_json(report)["page_cache"];
  EXPECT_EQ(kept["kept_bytes"], 64 * kMiB);
  EXPECT_EQ(kept["locked_bytes"], 32 * kMiB);
  EXPECT_EQ(kept["lock_refusal"], "mlock of 32.0 MiB: no");
  EXPECT_EQ(kept["registration_refusal"], "cudaHostRegister\nof 32.0 MiB: no");
  EXPECT_EQ(kept["lost_bytes"], 3 * kMiB);
}

TEST(RunReport, SaysNothingOfPagesWhereNoneAreKept) {
  EXPECT_THAT(describe_end(RunReport()), Not(HasSubstr("kept")));
}

TEST(RunReport, TellsReadsOutOfTheKernelsCacheFromPagesThatAreKept) {
  PassReport pass;
  pass.stats.seconds = 2;
  pass.stats.bytes.page_cache = 300 * kMiB;
  pass.stats.links.cached_bytes = 100 * kMiB;
  EXPECT_THAT(describe_pass(1, pass, {}),
              HasSubstr("\n        kernel's page cache: 100 MiB read, 0.05 GB/s, in the disk's time\n"));
  pass.stats.links.cached_bytes = 0;
  EXPECT_THAT(describe_pass(1, pass, {}), Not(HasSubstr("kernel")));
}

TEST(RunReport, CallsNothingTheLeastThatAPassWentBelow) {
  PassReport pass;
  pass.stats.seconds = 2;
  pass.verdict.bound_seconds = 1.5;
  pass.verdict.efficiency = 0.75;
  EXPECT_THAT(describe_pass(1, pass, {.disk = 1e9}), HasSubstr("efficiency 0.75: 1.500 s at the least\n"));
  EXPECT_THAT(describe_pass(1, pass, {}), Not(HasSubstr("efficiency"))) << "by no link's rate";
  pass.verdict.bound_seconds = 2.5;
  pass.verdict.efficiency = 1.25;
  EXPECT_THAT(describe_pass(1, pass, {.disk = 1e9}),
              HasSubstr("efficiency 1.25: 2.500 s by the links' rates, which were exceeded\n"));
}

TEST(RunReport, CountsInSingularAndPlural) {
  RunReport report;
  report.verified_tensors = 1;
  EXPECT_THAT(describe_end(report), HasSubstr("verified 1 tensor: "));
  report.verified_tensors = 2;
  EXPECT_THAT(describe_end(report), HasSubstr("verified 2 tensors: "));
}

}  // namespace
}  // namespace tierstream
