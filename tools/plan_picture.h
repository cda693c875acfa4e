#pragma once

#include <iosfwd>

#include "tools/plan_report.h"

namespace tierstream {

/// Who lives where, as an SVG picture: a column for each layer, as high as its bytes, coloured by their
/// homes; the sums below.
void write_plan_picture(const PlanReport& report, std::ostream& out);

}  // namespace tierstream
