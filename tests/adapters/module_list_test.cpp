#include <gtest/gtest.h>
#include <tierstream/adapters/torch/module_list.h>
#include <tierstream/io/error.h>

#include "adapters/tiny_model.h"
#include "support/thrown.h"

namespace tierstream {
namespace {

TEST(ModuleListPath, LeadsToTheList) {
  TinyModel model(2);
  EXPECT_EQ(find_module_list(*model, "encoder.layer").get(), model->layers.get());
}

TEST(ModuleListPath, WithAMissingPartNamesItAndWhatIsThere) {
  TinyModel model(2);
  EXPECT_EQ(
      thrown_by([&] { find_module_list(*model, "decoder.layer"); }),
      (Thrown{Errc::kNoSuchModule,
              "no module \"decoder\" for \"decoder.layer\": tierstream::TinyModelImpl has head, encoder"}));
  EXPECT_EQ(thrown_by([&] { find_module_list(*model, "head.layer"); }),
            (Thrown{Errc::kNoSuchModule,
                    "no module \"layer\" for \"head.layer\": torch::nn::LinearImpl has no modules"}));
}

TEST(ModuleListPath, ThatIsEmptyOrEndsInADotNamesNoModule) {
  TinyModel model(1);
  EXPECT_EQ(thrown_by([&] { find_module_list(*model, ""); }).errc, Errc::kNoSuchModule);
  EXPECT_EQ(thrown_by([&] { find_module_list(*model, "encoder.layer."); }).errc, Errc::kNoSuchModule);
}

TEST(ModuleListPath, ToAnotherModuleNamesThePathAndTheTypeFound) {
  TinyModel model(1);
  EXPECT_EQ(thrown_by([&] { find_module_list(*model, "head"); }),
            (Thrown{Errc::kWrongModuleType,
                    "\"head\" is a torch::nn::LinearImpl, not a torch::nn::ModuleListImpl"}));
}

}  // namespace
}  // namespace tierstream
