#include <gtest/gtest.h>
#include <tierstream/adapters/torch/module_list.h>
#include <tierstream/io/error.h>

#include "adapters/tiny_model.h"
#include "support/thrown.h"

namespace tierstream {
namespace {

TEST(ModuleListPath, LeadsToTheList) {
  TinyModel model(2);
  const ModuleList list(*model, "encoder.layer");
  EXPECT_EQ(list.size(), 2u);
  EXPECT_EQ(&list.as<TinyLayerImpl>(1), model->layer(1).get());
  EXPECT_EQ(list.path_of(1), "encoder.layer.1");
}

TEST(ModuleListPath, LeadsToASequential) {
  TinyModel model(1);
  torch::nn::Sequential blocks(torch::nn::Linear(2, 2), torch::nn::GELU());
  model->register_module("blocks", blocks);
  const ModuleList list(*model, "blocks");
  EXPECT_EQ(list.size(), 2u);
  EXPECT_EQ(&list.sequential(), blocks.get());
}

TEST(ModuleListPath, WithAMissingPartNamesItWhatIsThereAndTheLists) {
  TinyModel model(2);
  EXPECT_EQ(
      thrown_by([&] { ModuleList(*model, "decoder.layer"); }),
      (Thrown{Errc::kNoSuchModule,
              "no module \"decoder\" for \"decoder.layer\": tierstream::TinyModelImpl has head, encoder; "
              "lists are at encoder.layer"}));
  EXPECT_EQ(
      thrown_by([&] { ModuleList(*model, "head.layer"); }),
      (Thrown{Errc::kNoSuchModule,
              "no module \"layer\" for \"head.layer\": torch::nn::LinearImpl has no modules; lists are at "
              "encoder.layer"}));
}

TEST(ModuleListPath, ThatIsEmptyOrEndsInADotNamesNoModule) {
  TinyModel model(1);
  EXPECT_EQ(thrown_by([&] { ModuleList(*model, ""); }).errc, Errc::kNoSuchModule);
  EXPECT_EQ(thrown_by([&] { ModuleList(*model, "encoder.layer."); }).errc, Errc::kNoSuchModule);
}

TEST(ModuleListPath, ToAnotherModuleNamesThePathTheTypeFoundAndTheLists) {
  TinyModel model(1);
  EXPECT_EQ(thrown_by([&] { ModuleList(*model, "head"); }),
            (Thrown{Errc::kWrongModuleType,
                    "\"head\" is a torch::nn::LinearImpl, not a torch::nn::ModuleList; lists are at "
                    "encoder.layer"}));
  torch::nn::LinearImpl none(2, 2);
  EXPECT_THAT(thrown_by([&] { ModuleList(none, "layers"); }).what,
              testing::HasSubstr("the model has no lists"));
}

TEST(ModuleList, OutOfRangeGivesTheValidRange) {
  TinyModel model(3);
  const ModuleList list(*model, "encoder.layer");
  EXPECT_EQ(
      thrown_by([&] { list.at(3); }),
      (Thrown{Errc::kInvalidArgument, "layer 3 of \"encoder.layer\" is out of range: there are 0 to 2"}));
}

}  // namespace
}  // namespace tierstream
