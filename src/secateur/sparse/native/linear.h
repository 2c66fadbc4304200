/* y = activation(x W^T + bias) for dense x and sparse W.

   Tokens become vectors: x is turned around once, in panels as wide as a register tile, so that a
   column's activations lie side by side. Outputs are turned back sixteen at a time, whole cache lines. */
#ifndef SECATEUR_LINEAR_H
#define SECATEUR_LINEAR_H

#include "blocks.h"
#include "parallel.h"
#include "singles.h"
#include "transpose.h"

enum { COLUMNS_A_TASK = 256, OUTPUTS_A_LINE = 16, PANEL_FLOATS = 1 << 21 };

/* Where products with single tokens, one by one, stop being faster than one tile of LANES tokens. */
static int64_t few(int height) { return height == 1 ? 1 : most(2, height * 4 / LANES); }

/* Tokens from `token` on, `width` of them, columns [from, to): zeros stand in for tokens at the end. */
static void pack_panel(const Linear *shape, const float *x, int64_t token, int64_t width, int64_t from,
                       int64_t to, float *panel) {
    const int64_t valid = least(width, shape->tokens - token);
    transpose(x + token * shape->stride + from, shape->stride, valid, to - from, panel + from * width,
              width, 16);
    if (valid < width)
        for (int64_t column = from; column < to; column++)
            memset(panel + column * width + valid, 0, (size_t)(width - valid) * sizeof(float));
}

/* Outputs [first, last) of the tokens of one panel; `first` starts a block. */
static void fill_outputs(const Linear *shape, const Weights *weights, const float *panel, int64_t token,
                         int64_t width, int64_t first, int64_t last, float *y) {
    _Alignas(64) float lines[ROWS_IN_LINES * MOST_VECTORS * LANES];
    const int64_t valid = least(width, shape->tokens - token);
    const Place places = {(size_t)width, NULL};
    const Rows rows = {weights, 0, parts_of(shape->inputs), shape->outputs, first, last,
                       weights->bias};
    Turn turn;
    turn.rows_each = 0;
    sum_rows(&rows, &turn, panel, &places, 0, lines, width, width);
    for (int64_t line = first; line < last; line += OUTPUTS_A_LINE)
        transpose(lines + (line - first) * width, width, least(OUTPUTS_A_LINE, last - line), valid,
                  y + token * shape->outputs + line, shape->outputs, 8);
}

static int linear(const Linear *shape, const Weights *weights, const float *x, float *y) {
    if (shape->tokens <= few(weights->height)) {
        few_tokens(shape, weights, x, y);
        return DONE;
    }
    const int64_t height = weights->height, blocks = divide_up(shape->outputs, height);
    const int64_t parts = parts_of(shape->inputs);
    const int64_t vectors = divide_up(shape->tokens, LANES);
    const int64_t panels =
        divide_up(vectors, most_vectors(rows_of((int)height, vectors)));
    const int64_t panel_floats = divide_up(vectors, panels) * LANES * shape->inputs;
    const int64_t together = least(most(PANEL_FLOATS / panel_floats, 1), panels);
    float *scratch = secateur_scratch((size_t)(together * panel_floats));
    if (!scratch) return OUT_OF_MEMORY;

    const int64_t work = (int64_t)weights->starts[blocks * parts] * height * vectors * LANES;
    const int threads = useful_threads(weights->threads, work);
    const int64_t pieces = divide_up(shape->inputs, COLUMNS_A_TASK);
    const int64_t shares = pieces_of(shape->outputs, together, threads);

    PRAGMA(omp parallel num_threads(threads))
    for (int64_t round = 0; round < panels; round += together) {
        const int64_t now = least(together, panels - round);
        PRAGMA(omp for schedule(static))
        for (int64_t task = 0; task < now * pieces; task++) {
            const int64_t panel = round + task / pieces, from = task % pieces * COLUMNS_A_TASK;
            const int64_t to = least(from + COLUMNS_A_TASK, shape->inputs);
            const int64_t token = cut(vectors, panels, panel) * LANES;
            const int64_t width = cut(vectors, panels, panel + 1) * LANES - token;
            pack_panel(shape, x, token, width, from, to, scratch + (panel - round) * panel_floats);
        }
        PRAGMA(omp for schedule(dynamic))
        for (int64_t task = 0; task < now * shares; task++) {
            const int64_t panel = round + task / shares, share = task % shares;
            const int64_t token = cut(vectors, panels, panel) * LANES;
            const int64_t width = cut(vectors, panels, panel + 1) * LANES - token;
            fill_outputs(shape, weights, scratch + (panel - round) * panel_floats, token, width,
                         row_of_piece(shape->outputs, shares, share),
                         row_of_piece(shape->outputs, shares, share + 1), y);
        }
    }
    return DONE;
}

#endif
