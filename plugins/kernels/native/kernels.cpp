// Chooses an instruction set, and is the C interface.

#include "isa.h"

#include <initializer_list>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace {

struct Isa {
    const char *name;
    Run *run;
    Look *look;
    LookWide *look_wide;
    Sums *sums;
    bool there;
};

#if defined(__x86_64__)
// What the processor has and the system saves. Not every compiler's runtime fills in `__builtin_cpu_supports`.
struct Processor {
    uint32_t features = 0, extended = 0, saved = 0;

    Processor() {
        uint32_t a, b, c, d;
        if (__get_cpuid(1, &a, &b, &c, &d)) features = c;
        if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) extended = b;
        if (features >> 27 & 1) __asm__("xgetbv" : "=a"(saved), "=d"(d) : "c"(0));
    }

    bool has(uint32_t words, std::initializer_list<int> bits) const {
        return std::all_of(bits.begin(), bits.end(), [=](int bit) { return words >> bit & 1; });
    }

    // AVX, FMA, and F16C; AVX2; and the wide registers.
    bool avx2() const { return has(features, {28, 12, 29}) && has(extended, {5}) && (saved & 0x06) == 0x06; }

    // SHA, SSSE3, and SSE4.1.
    bool sha() const { return has(extended, {29}) && has(features, {9, 19}); }

    // AVX512 F, DQ, BW, and VL, and its registers.
    bool avx512() const { return avx2() && has(extended, {16, 17, 30, 31}) && (saved & 0xe6) == 0xe6; }
};
#endif

#if defined(__x86_64__)
const Processor processor;
#endif

const Isa *best() {
#if defined(__x86_64__)
    static const Isa all[] = {{"avx512", run_avx512, look_avx512, look_wide_avx512, sums_avx512, processor.avx512()},
                              {"avx2", run_avx2, look_avx2, look_wide_avx2, sums_avx2, processor.avx2()},
                              {"baseline", run_baseline, look_baseline, look_wide_baseline, sums_baseline, true}};
#else
    static const Isa all[] = {{"baseline", run_baseline, look_baseline, look_wide_baseline, sums_baseline, true}};
#endif
    return all;
}

const Isa *chosen() {
    const Isa *isa = best();
    while (!isa->there) isa++;
    return isa;
}

const Isa *used = chosen();

}  // namespace

int mergecore_version(void) { return 6; }

const char *mergecore_isa(void) { return used->name; }

int mergecore_use(const char *name) {
    for (const Isa *isa = best();; isa++) {
        if (std::strcmp(isa->name, name) == 0) {
            if (isa->there) used = isa;
            return isa->there;
        }
        if (std::strcmp(isa->name, "baseline") == 0) return 0;
    }
}

int mergecore_run(const Op *ops, int64_t length, int64_t result, const Buffer *inputs, Buffer out, int64_t count,
                  int64_t offset) {
    return used->run(ops, length, result, inputs, out, count, offset);
}

void mergecore_sums(const Op *ops, int64_t length, const Term *terms, int64_t term_count, const Buffer *inputs,
                    int64_t count, int64_t offset, double *sums) {
    used->sums(ops, length, terms, term_count, inputs, count, offset, sums);
}

int64_t mergecore_look(const Op *ops, int64_t length, int64_t result, const Buffer *inputs, int64_t count,
                       int64_t offset, const int32_t *edges, int64_t edge_count, int64_t inner, int32_t *picked,
                       int64_t *above) {
    return used->look(ops, length, result, inputs, count, offset, edges, edge_count, inner, picked, above);
}

int64_t mergecore_look_wide(const Op *ops, int64_t length, int64_t result, const Buffer *inputs, int64_t count,
                            int64_t offset, const int64_t *edges, int64_t edge_count, int64_t inner, int64_t *picked,
                            int64_t *above) {
    return used->look_wide(ops, length, result, inputs, count, offset, edges, edge_count, inner, picked, above);
}

int mergecore_sha256(const uint8_t *data, int64_t count, int64_t size, uint8_t *digests) {
#if defined(__x86_64__)
    if (!processor.sha()) return 0;
    sha256_x86(data, count, size, digests);
    return 1;
#else
    return 0;
#endif
}
