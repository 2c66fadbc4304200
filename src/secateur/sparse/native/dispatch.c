/* Which variant runs: the best that this machine has, or the one that was asked for. */
#include <string.h>

#include "interface.h"

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

extern const Variant secateur_baseline;
#ifdef WITH_AVX2
extern const Variant secateur_avx2;
#endif
#ifdef WITH_AVX512
extern const Variant secateur_avx512;
#endif

enum { MOST_VARIANTS = 8 };

/* Those that this machine can run, the best one last. */
static int usable(const Variant *found[MOST_VARIANTS]) {
    int count = 0;
    found[count++] = &secateur_baseline;
#if defined(WITH_AVX2) || defined(WITH_AVX512)
    __builtin_cpu_init();
#endif
#ifdef WITH_AVX2
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found[count++] = &secateur_avx2;
#endif
#ifdef WITH_AVX512
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("fma"))
        found[count++] = &secateur_avx512;
#endif
    return count;
}

static const Variant *chosen;

static const Variant *variant(void) {
    const Variant *now = __atomic_load_n(&chosen, __ATOMIC_ACQUIRE);
    if (!now) {
        const Variant *found[MOST_VARIANTS];
        now = found[usable(found) - 1];
        __atomic_store_n(&chosen, now, __ATOMIC_RELEASE);
    }
    return now;
}

/* The name of a variant that this machine can run, or null where there are no more. */
EXPORT const char *secateur_variant_name(int index) {
    const Variant *found[MOST_VARIANTS];
    return index >= 0 && index < usable(found) ? found[index]->name : 0;
}

EXPORT const char *secateur_variant_in_use(void) { return variant()->name; }

/* Whether there is a variant of that name here; from now on it is the one in use. */
EXPORT int secateur_use_variant(const char *name) {
    const Variant *found[MOST_VARIANTS];
    for (int i = usable(found) - 1; i >= 0; i--)
        if (!strcmp(found[i]->name, name)) {
            __atomic_store_n(&chosen, found[i], __ATOMIC_RELEASE);
            return 1;
        }
    return 0;
}

EXPORT int secateur_linear(const int64_t *shape, const float *x, const int32_t *starts,
                           const void *columns, int wide, const float *values, int height,
                           const float *bias, int activation, int threads, float *y) {
    const Weights weights = {starts, columns, values, bias, wide, height, activation, threads};
    return variant()->linear((const Linear *)shape, &weights, x, y);
}

EXPORT int secateur_linear_gradient(const int64_t *shape, const float *dy, const int32_t *starts,
                                    const void *columns, int wide, const float *values, int height,
                                    int threads, float *dx) {
    const Weights weights = {starts, columns, values, 0, wide, height, 0, threads};
    return variant()->linear_gradient((const Linear *)shape, &weights, dy, dx);
}

EXPORT int secateur_convolution(const int64_t *shape, const float *x, const int32_t *starts,
                                const void *columns, int wide, const float *values, int height,
                                const float *bias, int activation, int threads, float *y) {
    const Weights weights = {starts, columns, values, bias, wide, height, activation, threads};
    return variant()->convolution((const Convolution *)shape, &weights, x, y);
}

EXPORT int secateur_convolution_gradient(const int64_t *shape, const float *dy, const int32_t *starts,
                                         const void *columns, int wide, const float *values,
                                         int height, int threads, float *dx) {
    const Weights weights = {starts, columns, values, 0, wide, height, 0, threads};
    return variant()->convolution_gradient((const Convolution *)shape, &weights, dy, dx);
}
