#pragma once

#include <vector>

#include "arguments.hpp"
#include "immucond/extreme.hpp"

namespace immucond::bindings {

/// The fields of the pairs of one matrix, or of each in a stack: then arrays with its axis first.
py::dict pairs_dict(std::vector<ExtremePairs> all, bool stack);

}  // namespace immucond::bindings
