/* Products of a sparse matrix with few vectors. */
#ifndef SECATEUR_SINGLES_H
#define SECATEUR_SINGLES_H

#include "blocks.h"
#include "parallel.h"

#define COLUMN uint16_t
#define NAME(height) narrow_single_##height
#include "heights.h"

#define COLUMN uint32_t
#define NAME(height) wide_single_##height
#include "heights.h"

typedef void (*Single)(const void *columns, const float *values, size_t count, const float *x, float *y);

static Single find_single(const Weights *weights) {
    static const Single all[2][4] = {
        {narrow_single_1, narrow_single_4, narrow_single_8, narrow_single_16},
        {wide_single_1, wide_single_4, wide_single_8, wide_single_16}};
    int height = weights->height;
    return all[weights->wide][height == 1 ? 0 : height == 4 ? 1 : height == 8 ? 2 : 3];
}

static void activate_all(float *values, int64_t count, int activation) {
    int64_t at = 0;
    for (; at + LANES <= count; at += LANES) store(values + at, activate(load(values + at), activation));
    if (at < count) {
        float rest[LANES] = {0};
        memcpy(rest, values + at, (size_t)(count - at) * sizeof(float));
        store(rest, activate(load(rest), activation));
        memcpy(values + at, rest, (size_t)(count - at) * sizeof(float));
    }
}

/* The first block of share `share` of `shares` that hold about as many weights each. */
static int64_t share_of(const int32_t *starts, int64_t blocks, int64_t parts, int64_t shares,
                        int64_t share) {
    /* A block costs something even where it is empty. */
    const int64_t fixed = 4, all = (int64_t)starts[blocks * parts] + fixed * blocks;
    const int64_t goal = all * share / shares;
    int64_t low = 0, high = blocks;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (starts[middle * parts] + fixed * middle < goal)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void few_tokens(const Linear *shape, const Weights *weights, const float *x, float *y) {
    const Single single = find_single(weights);
    const int32_t *starts = weights->starts;
    const int64_t height = weights->height, blocks = divide_up(shape->outputs, height);
    const int64_t parts = parts_of(shape->inputs);
    const int64_t work = (int64_t)starts[blocks * parts] * height * shape->tokens;
    const int threads = useful_threads(weights->threads, work);
    (void)threads;
    PRAGMA(omp parallel num_threads(threads))
    {
        const int64_t shares = omp_get_num_threads(), share = omp_get_thread_num();
        const int64_t first = share_of(starts, blocks, parts, shares, share);
        const int64_t last = share_of(starts, blocks, parts, shares, share + 1);
        for (int64_t block = first; block < last; block++) {
            const int64_t row = block * height, rows = least(height, shape->outputs - row);
            const int64_t start = starts[block * parts], end = starts[(block + 1) * parts];
            for (int64_t token = 0; token < shape->tokens; token++) {
                float sums[MOST_HEIGHT], *to = y + token * shape->outputs + row;
                single((const char *)weights->columns + start * (weights->wide ? 4 : 2), weights->values + start * height,
                       (size_t)(end - start), x + token * shape->stride, sums);
                for (int64_t i = 0; i < rows; i++)
                    to[i] = sums[i] + (weights->bias ? weights->bias[row + i] : 0.0f);
            }
        }
        if (weights->activation != NONE && first < last) {
            const int64_t from = first * height, to = least(last * height, shape->outputs);
            for (int64_t token = 0; token < shape->tokens; token++)
                activate_all(y + token * shape->outputs + from, to - from, weights->activation);
        }
    }
}

#endif
