/* A convolution's activations as flat rows that every position of the kernel reads side by side.

   Rows of x, split by phase of the stride, follow each other `pitch` apart with zeros between them, so
   many that the right padding of a row is the left padding of the next. Output (row, column) stands
   at row * pitch + column, and a position of the kernel is a shift of that. Columns from out_columns
   on compute what nobody reads. */
#ifndef SECATEUR_PLANES_H
#define SECATEUR_PLANES_H

#include "axis.h"
#include "interface.h"
#include "vector.h"

enum { PANEL_FLOATS_IN_CACHE = 1 << 16, LINE = 16 };

typedef struct {
    Axis down, along;
    int64_t inputs, outputs;    /* channels of one group */
    int64_t planes;             /* of one group: a plane is one phase of one channel */
    int64_t columns;            /* of one group's weight */
    int64_t pitch, positions;   /* of one output row; all of them */
    int64_t lowest, halo;       /* the lowest shift, and how far the highest is from it */
    int64_t vectors, panels;    /* that the positions fill, and that they are cut into */
    int64_t panel_pitch;        /* of one plane of one panel */
} Planes;

/* `wanted` positions or more in a panel, if there are as many. */
static Planes planes_of(const Convolution *c, int64_t wanted) {
    Planes p = {.inputs = c->channels / c->groups, .outputs = c->outputs / c->groups};
    p.down = axis_of(c->rows, c->out_rows, c->kernel_rows, c->stride_rows, c->pad_rows, c->step_rows);
    p.along = axis_of(c->columns, c->out_columns, c->kernel_columns, c->stride_columns, c->pad_columns,
                      c->step_columns);
    p.planes = p.inputs * p.down.phases * p.along.phases;
    p.columns = p.inputs * c->kernel_rows * c->kernel_columns;
    p.pitch = p.along.pitch;
    p.positions = (c->out_rows - 1) * p.pitch + c->out_columns;
    p.lowest = p.down.lowest * p.pitch + p.along.lowest;
    p.halo = p.down.highest * p.pitch + p.along.highest - p.lowest;
    p.vectors = divide_up(p.positions, LANES);
    const int64_t room = most(PANEL_FLOATS_IN_CACHE / p.planes - p.halo, most(p.halo, wanted));
    p.panels = least(divide_up(p.vectors * LANES, room), p.vectors);
    /* An odd number of cache lines, so that planes do not meet in the same sets. */
    p.panel_pitch = (divide_up(divide_up(p.vectors, p.panels) * LANES + p.halo, LINE) | 1) * LINE;
    return p;
}

/* Where the activations of every column of a group's weight begin in a panel. */
static void find_offsets(const Convolution *c, const Planes *p, uint32_t *offsets) {
    for (int64_t row = 0; row < c->kernel_rows; row++)
        for (int64_t column = 0; column < c->kernel_columns; column++) {
            const int64_t plane = p->down.slot[phase_at(&p->down, row)] * p->along.phases +
                                  p->along.slot[phase_at(&p->along, column)];
            const int64_t shift =
                shift_at(&p->down, row) * p->pitch + shift_at(&p->along, column) - p->lowest;
            const int64_t first = plane * p->panel_pitch + shift;
            const int64_t channel = p->down.phases * p->along.phases * p->panel_pitch;
            uint32_t *to = offsets + row * c->kernel_columns + column;
            for (int64_t input = 0; input < p->inputs; input++)
                to[input * c->kernel_rows * c->kernel_columns] = (uint32_t)(first + input * channel);
        }
}

/* A stretch of one row of a plane, or of the zeros behind it. */
typedef struct {
    int64_t row, column, length;
    int live; /* whether it is of x */
} Stretch;

/* The stretch at flat position `at`, at most `left` long. */
static Stretch stretch_at(const Planes *p, int64_t rows, int64_t columns, int64_t at, int64_t left) {
    Stretch s = {.row = divide_down(at, p->pitch)};
    s.column = at - s.row * p->pitch;
    s.live = s.row >= 0 && s.row < rows && s.column < columns;
    s.length = least(left, (s.column < columns ? columns : p->pitch) - s.column);
    return s;
}

enum Direction { INTO_PLANES, OUT_OF_PLANES };

/* One channel of x [rows][columns] into its planes of a panel that begins at `position`, or what
   stands for x there back. */
static void move_channel(const Planes *p, enum Direction direction, float *x, int64_t position,
                         float *planes) {
    const int64_t stride = p->along.stride;
    for (int64_t i = 0; i < p->down.phases; i++)
        for (int64_t j = 0; j < p->along.phases; j++) {
            const int64_t rows = data_of(&p->down, p->down.phase[i]);
            const int64_t columns = data_of(&p->along, p->along.phase[j]);
            float *plane = planes + (i * p->along.phases + j) * p->panel_pitch;
            Stretch s;
            for (int64_t at = 0; at < p->panel_pitch; at += s.length) {
                s = stretch_at(p, rows, columns, position + p->lowest + at, p->panel_pitch - at);
                const int64_t row = s.row * p->down.stride + p->down.phase[i];
                const int64_t first = s.column * stride + p->along.phase[j];
                if (!s.live) {
                    if (direction == INTO_PLANES)
                        memset(plane + at, 0, (size_t)s.length * sizeof(float));
                    continue;
                }
                float *there = x + row * p->along.size + first;
                if (direction == OUT_OF_PLANES)
                    for (int64_t k = 0; k < s.length; k++) there[k * stride] = plane[at + k];
                else if (stride == 1)
                    memcpy(plane + at, there, (size_t)s.length * sizeof(float));
                else
                    for (int64_t k = 0; k < s.length; k++) plane[at + k] = there[k * stride];
            }
        }
}

#endif
