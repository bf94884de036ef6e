// Which of the kernel sets in this library the processor runs.
#include <cstdlib>
#include <cstring>

#include "library.h"

namespace sepdeploy {

#define SEPDEPLOY_SET_OF(name) extern const Kernels name##_kernels;
SEPDEPLOY_SETS(SEPDEPLOY_SET_OF)
#undef SEPDEPLOY_SET_OF

namespace {

bool runs(const char *name) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!std::strcmp(name, "avx512"))
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("fma");
    if (!std::strcmp(name, "avx2"))
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return !std::strcmp(name, "base");
}

const Kernels &choose() {
    // Tests force a lesser set by name; a set that the processor lacks is never taken.
    const char *wanted = std::getenv("SEPDEPLOY_NATIVE_SET");
    if (wanted && !*wanted) wanted = nullptr;
    const Kernels *all[] = {
#define SEPDEPLOY_SET_OF(name) &name##_kernels,
        SEPDEPLOY_SETS(SEPDEPLOY_SET_OF)
#undef SEPDEPLOY_SET_OF
    };
    for (const Kernels *set : all)
        if (runs(set->name) && (!wanted || !std::strcmp(wanted, set->name))) return *set;
    return base_kernels;
}

}  // namespace

const Kernels &kernels() {
    static const Kernels &chosen = choose();
    return chosen;
}

std::atomic<unsigned long long> calls{0};

}  // namespace sepdeploy

extern "C" {

SEPDEPLOY_EXPORT unsigned long long sepdeploy_native_calls(void) { return sepdeploy::calls.load(); }

SEPDEPLOY_EXPORT const char *sepdeploy_native_set(void) { return sepdeploy::kernels().name; }

SEPDEPLOY_EXPORT const char *sepdeploy_native_digest(void) { return SEPDEPLOY_DIGEST; }
}
