/* Threads through OpenMP where the compiler has it, one thread where it does not. */
#ifndef SECATEUR_PARALLEL_H
#define SECATEUR_PARALLEL_H

#include <stdint.h>

#ifdef _OPENMP
#include <omp.h>
#define PRAGMA(text) _Pragma(#text)
#else
#define PRAGMA(text)
static inline int omp_get_thread_num(void) { return 0; }
static inline int omp_get_num_threads(void) { return 1; }
#endif

/* Fewer multiplications than this are over before a second thread has woken up. */
enum { WORTH_A_THREAD = 20000 };

static int useful_threads(int threads, int64_t multiplications) {
    int64_t most = multiplications / WORTH_A_THREAD + 1;
    return threads < most ? threads : (int)most;
}

#endif
