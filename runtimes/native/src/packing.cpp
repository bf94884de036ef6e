#include "packing.h"

#include <cstdint>
#include <cstdlib>
#include <new>

namespace sepdeploy {

constexpr size_t LINE = 64;  // bytes of a cache line

Buffer::Buffer(size_t count) : size_(count) {
    memory_.reset(std::malloc(count * sizeof(float) + LINE));
    if (!memory_) throw std::bad_alloc();
    const auto at = reinterpret_cast<std::uintptr_t>(memory_.get());
    data_ = reinterpret_cast<float *>((at + LINE - 1) / LINE * LINE);
}

void Buffer::Free::operator()(void *p) const { std::free(p); }

float *scratch(size_t count) {
    static thread_local Buffer kept;
    if (kept.size() < count) kept = Buffer(count);
    return kept.data();
}

}  // namespace sepdeploy
