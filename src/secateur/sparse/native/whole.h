/* Arithmetic of whole numbers. */
#ifndef SECATEUR_WHOLE_H
#define SECATEUR_WHOLE_H

#include <stdint.h>

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t divide_up(int64_t number, int64_t by) { return (number + by - 1) / by; }
static inline int64_t divide_down(int64_t number, int64_t by) {
    return number / by - (number % by < 0);
}

/* Where part `part` of `parts`, as even as they can be, begins. */
static inline int64_t cut(int64_t number, int64_t parts, int64_t part) {
    return number * part / parts;
}

#endif
