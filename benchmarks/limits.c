/* What the machine can do at most: multiply-adds from registers. Compiled by benchmarks/limits.py. */
#include <stdint.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
#define CHAINS 12

typedef float Vector __attribute__((vector_size(LANES * 4)));

/* Returns how many operations were done; the sums go to `out`, so that they cannot be left out. */
double multiply_add(int threads, int64_t rounds, float *out) {
#pragma omp parallel num_threads(threads)
    {
        Vector sums[CHAINS];
        const Vector factor = (Vector){0} + 0.999f, term = (Vector){0} + 0.001f;
        for (int i = 0; i < CHAINS; i++) sums[i] = (Vector){0} + (float)i;
        for (int64_t round = 0; round < rounds; round++) {
#pragma GCC unroll 12
            for (int i = 0; i < CHAINS; i++) sums[i] = sums[i] * factor + term;
        }
#pragma omp critical
        for (int i = 0; i < CHAINS; i++) out[0] += sums[i][0];
    }
    return 2.0 * LANES * CHAINS * (double)rounds * threads;
}
