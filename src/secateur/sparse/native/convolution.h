/* Convolution with a sparse weight: the register tiles of a matrix product, on shifted planes. */
#ifndef SECATEUR_CONVOLUTION_H
#define SECATEUR_CONVOLUTION_H

#include "blocks.h"
#include "parallel.h"
#include "planes.h"

enum { SCRATCH_FLOATS = 1 << 21, CHANNELS_A_TASK = 8 };

/* One group of one sample, and one panel of its positions. */
typedef struct {
    int64_t sample, group, from, to; /* vectors [from, to) */
} Panel;

static Panel panel_at(const Planes *p, int64_t groups, int64_t index) {
    const int64_t piece = index % p->panels, group = index / p->panels % groups;
    return (Panel){index / p->panels / groups, group, cut(p->vectors, p->panels, piece),
                   cut(p->vectors, p->panels, piece + 1)};
}

/* Drop the columns of a tile that no output stands at. */
static void keep_outputs(const Convolution *c, const Planes *p, const float *lines, int64_t width,
                         int64_t rows, int64_t position, float *y) {
    const int64_t size = c->out_rows * c->out_columns;
    int64_t row = position / p->pitch, column = position % p->pitch;
    for (int64_t at = 0; at < width && row < c->out_rows; row++, column = 0) {
        const int64_t left = width - at, live = least(most(c->out_columns - column, 0), left);
        for (int64_t i = 0; i < rows; i++) {
            const float *from = lines + i * width + at;
            float *to = y + i * size + row * c->out_columns + column;
            int64_t k = 0;
            for (; k + LANES <= live; k += LANES) store(to + k, load(from + k));
            for (; k < live; k++) to[k] = from[k];
        }
        at += least(p->pitch - column, left);
    }
}

/* Outputs [first, last) of a group at the positions of one panel. */
static void fill_channels(const Convolution *c, const Planes *p, const Weights *weights, Panel panel,
                          const float *planes, const uint32_t *offsets, int64_t first, int64_t last,
                          float *y) {
    _Alignas(64) float lines[ROWS_IN_LINES * MOST_VECTORS * LANES];
    const int64_t height = weights->height, size = c->out_rows * c->out_columns;
    const int64_t vectors = panel.to - panel.from;
    const int64_t tiles = divide_up(vectors, most_vectors(rows_of((int)height, vectors)));
    const Place places = {0, offsets};
    Turn turn;
    turn.rows_each = 0;
    const Rows rows = {weights, panel.group * divide_up(p->outputs, height),
                       parts_of(p->columns), p->outputs, first, last,
                       weights->bias ? weights->bias + panel.group * p->outputs : NULL};
    y += (panel.sample * c->outputs + panel.group * p->outputs + first) * size;
    for (int64_t piece = 0; piece < tiles; piece++) {
        const int64_t from = cut(vectors, tiles, piece), to = cut(vectors, tiles, piece + 1);
        const int64_t position = (panel.from + from) * LANES, width = (to - from) * LANES;
        const int whole = p->pitch == c->out_columns && position + width <= size &&
                          (last - first) % height == 0;
        if (whole)
            sum_rows(&rows, &turn, planes + from * LANES, &places, 1, y + position, width, size);
        else {
            sum_rows(&rows, &turn, planes + from * LANES, &places, 1, lines, width, width);
            keep_outputs(c, p, lines, width, last - first, position, y);
        }
    }
}

static int convolution(const Convolution *c, const Weights *weights, const float *x, float *y) {
    const int64_t height = weights->height;
    const Planes p = planes_of(c, most_vectors(rows_of((int)height, MOST_VECTORS)) * LANES);
    const int64_t blocks = divide_up(p.outputs, height), panels = c->batch * c->groups * p.panels;
    const int64_t panel_floats = p.planes * p.panel_pitch;
    const int64_t together = least(most(SCRATCH_FLOATS / panel_floats, 1), panels);
    const int64_t offset_floats = divide_up(p.columns, LINE) * LINE;
    float *scratch = secateur_scratch((size_t)(offset_floats + together * panel_floats));
    if (!scratch) return OUT_OF_MEMORY;
    uint32_t *offsets = (uint32_t *)scratch;
    float *planes = scratch + offset_floats;
    find_offsets(c, &p, offsets);

    const int64_t parts = parts_of(p.columns);
    const int64_t stored = (int64_t)weights->starts[blocks * c->groups * parts] * height;
    const int threads = useful_threads(weights->threads, stored * p.vectors * LANES * c->batch);
    const int64_t pieces = divide_up(p.inputs, CHANNELS_A_TASK);
    const int64_t shares = pieces_of(p.outputs, together, threads);
    const int64_t plane_floats = p.down.phases * p.along.phases * p.panel_pitch;

    PRAGMA(omp parallel num_threads(threads))
    for (int64_t round = 0; round < panels; round += together) {
        const int64_t now = least(together, panels - round);
        PRAGMA(omp for schedule(static))
        for (int64_t task = 0; task < now * pieces; task++) {
            const Panel panel = panel_at(&p, c->groups, round + task / pieces);
            const int64_t first = task % pieces * CHANNELS_A_TASK;
            for (int64_t input = first; input < least(first + CHANNELS_A_TASK, p.inputs); input++) {
                const int64_t channel = panel.sample * c->channels + panel.group * p.inputs + input;
                move_channel(&p, INTO_PLANES, (float *)x + channel * c->rows * c->columns,
                             panel.from * LANES,
                             planes + task / pieces * panel_floats + input * plane_floats);
            }
        }
        PRAGMA(omp for schedule(dynamic))
        for (int64_t task = 0; task < now * shares; task++)
            fill_channels(c, &p, weights, panel_at(&p, c->groups, round + task / shares),
                          planes + task / shares * panel_floats, offsets,
                          row_of_piece(p.outputs, shares, task % shares),
                          row_of_piece(p.outputs, shares, task % shares + 1), y);
    }
    return DONE;
}

#endif
