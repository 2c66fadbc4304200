/* How one axis of a kernel meets one axis of the activations. */
#ifndef SECATEUR_AXIS_H
#define SECATEUR_AXIS_H

#include "whole.h"

enum { LARGEST_STRIDE = 32 };

typedef struct {
    int64_t size, stride, pad, step;
    int64_t phases;                    /* of the stride, that are read at all */
    int64_t phase[LARGEST_STRIDE];     /* which ones those are */
    int64_t slot[LARGEST_STRIDE];      /* and their places among them; -1 for the others */
    int64_t lowest, highest;           /* shifts, in steps of the stride */
    int64_t reach;                     /* one past the last place of a phase that is read */
    int64_t pitch;                     /* of one row of a phase with the zeros that follow it */
} Axis;

/* The shift of a position of the kernel, and the phase that it reads. */
static int64_t shift_at(const Axis *axis, int64_t at) {
    return divide_down(at * axis->step - axis->pad, axis->stride);
}
static int64_t phase_at(const Axis *axis, int64_t at) {
    return at * axis->step - axis->pad - shift_at(axis, at) * axis->stride;
}

/* How many activations of one phase are read. */
static int64_t data_of(const Axis *axis, int64_t phase) {
    const int64_t data = phase < axis->size ? divide_up(axis->size - phase, axis->stride) : 0;
    return least(data, most(axis->reach, 0));
}

static Axis axis_of(int64_t size, int64_t out, int64_t kernel, int64_t stride, int64_t pad, int64_t step) {
    Axis axis = {.size = size, .stride = stride, .pad = pad, .step = step, .pitch = out};
    axis.lowest = shift_at(&axis, 0);
    axis.highest = shift_at(&axis, kernel - 1);
    axis.reach = out + axis.highest;
    for (int64_t phase = 0; phase < stride; phase++) axis.slot[phase] = -1;
    for (int64_t at = 0; at < kernel; at++) {
        const int64_t phase = phase_at(&axis, at);
        if (axis.slot[phase] < 0) {
            axis.phase[axis.phases] = phase;
            axis.slot[phase] = axis.phases++;
        }
    }
    /* Zeros before a row are those behind the row above it. */
    const int64_t before = most(0, -axis.lowest);
    axis.pitch = most(axis.pitch, axis.reach);
    for (int64_t i = 0; i < axis.phases; i++)
        axis.pitch = most(axis.pitch, data_of(&axis, axis.phase[i]) + before);
    return axis;
}

#endif
