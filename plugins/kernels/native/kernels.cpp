// Chooses an instruction set, and is the C interface.

#include "isa.h"

namespace {

struct Isa {
    const char *name;
    Run *run;
    Look *look;
    bool there;
};

const Isa *best() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    static const Isa all[] = {{"avx512", run_avx512, look_avx512, avx512},
                               {"avx2", run_avx2, look_avx2, avx2},
                               {"baseline", run_baseline, look_baseline, true}};
#else
    static const Isa all[] = {{"baseline", run_baseline, look_baseline, true}};
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

int mergecore_version(void) { return 2; }

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

int64_t mergecore_look(const int32_t *numbers, int64_t count, const int32_t *edges, int64_t edge_count, int64_t inner,
                       int32_t *picked, int64_t *above) {
    return used->look(numbers, count, edges, edge_count, inner, picked, above);
}
