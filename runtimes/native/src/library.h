// What the parts of the library share.
#pragma once

#include <atomic>

#include "kernels.h"

#define SEPDEPLOY_EXPORT __attribute__((visibility("default")))

// The kernel sets that were compiled in, best first; given by the build.
#ifndef SEPDEPLOY_SETS
#define SEPDEPLOY_SETS(SET) SET(base)
#endif
#ifndef SEPDEPLOY_DIGEST
#define SEPDEPLOY_DIGEST "unknown"
#endif

namespace sepdeploy {

// How often a layer ran here since the library was loaded, in whatever runtime.
extern std::atomic<unsigned long long> calls;

}  // namespace sepdeploy
