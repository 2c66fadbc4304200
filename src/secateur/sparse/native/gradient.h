/* The gradient of the activations: the transpose of the stored weight, scattered.

   One thread owns a range of columns, and adds to it in the order that they are stored in. */
#ifndef SECATEUR_GRADIENT_H
#define SECATEUR_GRADIENT_H

#include "blocks.h"
#include "parallel.h"
#include "planes.h"
#include "transpose.h"

static int64_t column_at(const Weights *weights, int64_t at) {
    return weights->wide ? (int64_t)((const uint32_t *)weights->columns)[at]
                         : (int64_t)((const uint16_t *)weights->columns)[at];
}

enum { INPUTS_A_TASK = 64 };

/* The first entry of [low, high) whose column is not below `column`. */
static int64_t find_column(const Weights *weights, int64_t low, int64_t high, int64_t column) {
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (column_at(weights, middle) < column)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* dx += W^T dy, for the columns [first, last) of the blocks of one group; dy [outputs][dy_pitch]. */
static void scatter(const Weights *weights, int64_t group, int64_t outputs, int64_t parts, int64_t first,
                    int64_t last, const float *dy, int64_t dy_pitch, int64_t vectors,
                    const Place *places, float *dx) {
    const int64_t height = weights->height, blocks = divide_up(outputs, height);
    for (int64_t block = 0; block < blocks; block++) {
        const int32_t *starts = weights->starts + (group * blocks + block) * parts;
        const int64_t start = starts[first / PART], end = starts[parts];
        const int64_t rows = least(height, outputs - block * height);
        const float *from = dy + block * height * dy_pitch;
        for (int64_t at = find_column(weights, start, end, first); at < end; at++) {
            const int64_t column = column_at(weights, at);
            if (column >= last) break;
            const float *values = weights->values + at * height;
            float *to = dx + (places->offsets ? places->offsets[column] : (size_t)column * places->pitch);
            for (int64_t v = 0; v < vectors; v++) {
                Vector sum = load(to + v * LANES);
                for (int64_t row = 0; row < rows; row++)
                    sum += load(from + row * dy_pitch + v * LANES) * broadcast(values[row]);
                store(to + v * LANES, sum);
            }
        }
    }
}

enum { GRADIENT_VECTORS = 4 };

static int linear_gradient(const Linear *shape, const Weights *weights, const float *dy, float *dx) {
    const int64_t vectors = divide_up(shape->tokens, LANES);
    const int64_t panels = divide_up(vectors, GRADIENT_VECTORS), width = GRADIENT_VECTORS * LANES;
    const int64_t floats = width * (shape->outputs + shape->inputs);
    const int64_t together = least(most((1 << 21) / floats, 1), panels);
    float *scratch = secateur_scratch((size_t)(together * floats));
    if (!scratch) return OUT_OF_MEMORY;
    const int64_t shares = divide_up(shape->inputs, INPUTS_A_TASK);
    const int64_t parts = parts_of(shape->inputs);
    const int64_t blocks = divide_up(shape->outputs, weights->height);
    const int64_t stored = (int64_t)weights->starts[blocks * parts] * weights->height;
    const int threads = useful_threads(weights->threads, stored * shape->tokens);
    const Place places = {(size_t)width, NULL};

    PRAGMA(omp parallel num_threads(threads))
    for (int64_t round = 0; round < panels; round += together) {
        const int64_t now = least(together, panels - round);
        PRAGMA(omp for schedule(static))
        for (int64_t panel = 0; panel < now; panel++) {
            const int64_t token = (round + panel) * width, valid = least(width, shape->tokens - token);
            float *to = scratch + panel * floats;
            memset(to, 0, (size_t)floats * sizeof(float));
            transpose(dy + token * shape->outputs, shape->outputs, valid, shape->outputs, to, width, 16);
        }
        PRAGMA(omp for schedule(dynamic))
        for (int64_t task = 0; task < now * shares; task++) {
            const int64_t panel = task / shares, token = (round + panel) * width;
            const int64_t first = task % shares * INPUTS_A_TASK;
            const int64_t last = least(first + INPUTS_A_TASK, shape->inputs);
            const float *from = scratch + panel * floats;
            float *to = scratch + panel * floats + shape->outputs * width;
            scatter(weights, 0, shape->outputs, parts, first, last, from, width, GRADIENT_VECTORS, &places, to);
            transpose(to + first * width, width, last - first, least(width, shape->tokens - token),
                      dx + token * shape->stride + first, shape->stride, 8);
        }
    }
    return DONE;
}

/* dy [out_rows][out_columns] of one output with the columns between that no output stands at. */
static void spread_outputs(const Convolution *c, const Planes *p, const float *dy, float *flat) {
    memset(flat, 0, (size_t)(p->vectors * LANES) * sizeof(float));
    for (int64_t row = 0; row < c->out_rows; row++)
        memcpy(flat + row * p->pitch, dy + row * c->out_columns,
               (size_t)c->out_columns * sizeof(float));
}

static int convolution_gradient(const Convolution *c, const Weights *weights, const float *dy, float *dx) {
    const Planes p = planes_of(c, INT64_MAX / 2); /* a single panel */
    const int64_t width = p.vectors * LANES, size = c->out_rows * c->out_columns;
    const int64_t image = c->rows * c->columns, kernel = c->kernel_rows * c->kernel_columns;
    const int64_t plane_floats = p.down.phases * p.along.phases * p.panel_pitch;
    const int64_t offset_floats = divide_up(p.columns, LINE) * LINE;
    const int64_t blocks = divide_up(p.outputs, weights->height), parts = parts_of(p.columns);
    float *scratch = secateur_scratch(
        (size_t)(offset_floats + p.outputs * width + p.planes * p.panel_pitch));
    if (!scratch) return OUT_OF_MEMORY;
    uint32_t *offsets = (uint32_t *)scratch;
    float *flat = scratch + offset_floats, *planes = flat + p.outputs * width;
    find_offsets(c, &p, offsets);
    memset(dx, 0, (size_t)(c->batch * c->channels * image) * sizeof(float));
    const int64_t stored = (int64_t)weights->starts[blocks * c->groups * parts] * weights->height;
    const int threads = useful_threads(weights->threads, stored * width * c->batch);
    const Place places = {0, offsets};

    PRAGMA(omp parallel num_threads(threads))
    for (int64_t index = 0; index < c->batch * c->groups; index++) {
        const float *from = dy + index * p.outputs * size;
        PRAGMA(omp for schedule(static))
        for (int64_t output = 0; output < p.outputs; output++)
            spread_outputs(c, &p, from + output * size, flat + output * width);
        PRAGMA(omp for schedule(dynamic))
        for (int64_t input = 0; input < p.inputs; input++) {
            float *own = planes + input * plane_floats;
            memset(own, 0, (size_t)plane_floats * sizeof(float));
            scatter(weights, index % c->groups, p.outputs, parts, input * kernel, (input + 1) * kernel, flat,
                    width, p.vectors, &places, planes);
            move_channel(&p, OUT_OF_PLANES, dx + (index * p.inputs + input) * image, 0, own);
        }
    }
    return DONE;
}

#endif
