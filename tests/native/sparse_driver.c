/* The sparse kernels on random shapes, in memory of exactly the sizes that they are told, against sums
   in double precision. Built with the address and undefined-behaviour sanitizers by
   tests/test_sparse_sanitized.py; it prints what differs and ends with 1. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "interface.h"

const char *secateur_variant_name(int index);
int secateur_use_variant(const char *name);
int secateur_linear(const int64_t *, const float *, const int32_t *, const void *, int, const float *,
                    int, const float *, int, int, float *);
int secateur_linear_gradient(const int64_t *, const float *, const int32_t *, const void *, int,
                             const float *, int, int, float *);
int secateur_convolution(const int64_t *, const float *, const int32_t *, const void *, int,
                         const float *, int, const float *, int, int, float *);
int secateur_convolution_gradient(const int64_t *, const float *, const int32_t *, const void *, int,
                                  const float *, int, int, float *);

static uint64_t state = 1;
static uint32_t draw(uint32_t below) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % below;
}
static float number(void) { return (float)draw(2001) / 1000.0f - 1.0f; }
static float *numbers(int64_t count) {
    float *made = malloc((size_t)count * sizeof(float));
    for (int64_t i = 0; i < count; i++) made[i] = number();
    return made;
}

typedef struct {
    float *dense;
    int32_t *starts;
    void *columns;
    float *values;
    int wide, height;
} Sparse;

static Sparse sparse(int64_t outputs, int64_t inputs, int64_t groups, int wide) {
    static const int heights[] = {1, 4, 8, 16};
    static const uint32_t percents[] = {0, 10, 50, 100};
    Sparse s = {.wide = wide, .height = heights[draw(4)]};
    const uint32_t percent = percents[draw(4)];
    const int64_t own = outputs / groups, blocks = (own + s.height - 1) / s.height;
    const int64_t part = PART, parts = (inputs + part - 1) / part;
    s.dense = calloc((size_t)(outputs * inputs), sizeof(float));
    s.starts = malloc((size_t)(groups * blocks * parts + 1) * sizeof(int32_t));
    int32_t count = 0;
    uint32_t *columns = malloc((size_t)(groups * blocks * inputs + 1) * sizeof(uint32_t));
    s.values = malloc((size_t)(groups * blocks * inputs * s.height + 1) * sizeof(float));
    for (int64_t block = 0; block < groups * blocks; block++) {
        for (int64_t column = 0; column < inputs; column++) {
            if (column % part == 0) s.starts[block * parts + column / part] = count;
            if (draw(100) >= percent) continue;
            columns[count] = (uint32_t)column;
            for (int64_t row = 0; row < s.height; row++) {
                const int64_t within = block % blocks * s.height + row;
                const float value = within < own ? number() : 0.0f;
                s.values[(int64_t)count * s.height + row] = value;
                if (within < own) s.dense[(block / blocks * own + within) * inputs + column] = value;
            }
            count++;
        }
    }
    s.starts[groups * blocks * parts] = count;
    s.values = realloc(s.values, (size_t)count * (size_t)s.height * sizeof(float) + 1);
    s.columns = malloc((size_t)count * (wide ? 4 : 2) + 1);
    for (int32_t i = 0; i < count; i++)
        if (wide)
            ((uint32_t *)s.columns)[i] = columns[i];
        else
            ((uint16_t *)s.columns)[i] = (uint16_t)columns[i];
    free(columns);
    return s;
}

static void release(Sparse s) {
    free(s.dense);
    free(s.starts);
    free(s.columns);
    free(s.values);
}

static int wrong;
static void compare(const char *what, const float *found, const double *expected, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        if (!(fabs(found[i] - expected[i]) <= 1e-4 * (1 + fabs(expected[i])))) {
            printf("%s: %g instead of %g at %lld\n", what, found[i], expected[i], (long long)i);
            wrong = 1;
            return;
        }
}

static void try_linear(int threads) {
    const int64_t tokens = 1 + draw(90), inputs = 1 + draw(300), outputs = 1 + draw(70);
    const int64_t shape[] = {tokens, inputs, outputs, inputs};
    const Sparse s = sparse(outputs, inputs, 1, (int)draw(2));
    float *x = numbers(tokens * inputs), *bias = draw(2) ? numbers(outputs) : NULL;
    float *y = malloc((size_t)(tokens * outputs) * sizeof(float));
    float *dx = malloc((size_t)(tokens * inputs) * sizeof(float));
    double *expected = malloc((size_t)(tokens * outputs) * sizeof(double));
    double *gradient = calloc((size_t)(tokens * inputs), sizeof(double));
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t o = 0; o < outputs; o++) {
            double sum = bias ? bias[o] : 0;
            for (int64_t i = 0; i < inputs; i++) sum += (double)x[t * inputs + i] * s.dense[o * inputs + i];
            expected[t * outputs + o] = sum > 0 ? sum : 0;
        }
    secateur_linear(shape, x, s.starts, s.columns, s.wide, s.values, s.height, bias, 1, threads, y);
    compare("linear", y, expected, tokens * outputs);
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t o = 0; o < outputs; o++)
            for (int64_t i = 0; i < inputs; i++)
                gradient[t * inputs + i] += (double)y[t * outputs + o] * s.dense[o * inputs + i];
    secateur_linear_gradient(shape, y, s.starts, s.columns, s.wide, s.values, s.height, threads, dx);
    compare("linear gradient", dx, gradient, tokens * inputs);
    free(x), free(bias), free(y), free(dx), free(expected), free(gradient);
    release(s);
}

static void try_convolution(int threads) {
    Convolution c = {.batch = 1 + draw(3), .groups = 1 + draw(3), .rows = 1 + draw(18)};
    c.columns = 1 + draw(18);
    c.channels = c.groups * (1 + draw(20));
    c.outputs = c.groups * (1 + draw(20));
    c.kernel_rows = 1 + draw(4), c.kernel_columns = 1 + draw(4);
    c.stride_rows = 1 + draw(3), c.stride_columns = 1 + draw(3);
    c.pad_rows = draw(4), c.pad_columns = draw(4);
    c.step_rows = 1 + draw(2), c.step_columns = 1 + draw(2);
    const int64_t down = c.rows + c.pad_rows + draw(4) - c.step_rows * (c.kernel_rows - 1) - 1;
    const int64_t along =
        c.columns + c.pad_columns + draw(4) - c.step_columns * (c.kernel_columns - 1) - 1;
    if (down < 0 || along < 0) return;
    c.out_rows = down / c.stride_rows + 1, c.out_columns = along / c.stride_columns + 1;
    const int64_t inputs = c.channels / c.groups, kernel = c.kernel_rows * c.kernel_columns;
    const Sparse s = sparse(c.outputs, inputs * kernel, c.groups, (int)draw(2));
    const int64_t in = c.batch * c.channels * c.rows * c.columns;
    const int64_t out = c.batch * c.outputs * c.out_rows * c.out_columns;
    float *x = numbers(in), *bias = draw(2) ? numbers(c.outputs) : NULL, *dy = numbers(out);
    float *y = malloc((size_t)out * sizeof(float)), *dx = malloc((size_t)in * sizeof(float));
    double *expected = calloc((size_t)out, sizeof(double)), *gradient = calloc((size_t)in, sizeof(double));
    for (int64_t at = 0; at < out; at++) {
        const int64_t column = at % c.out_columns, row = at / c.out_columns % c.out_rows;
        const int64_t output = at / c.out_columns / c.out_rows % c.outputs;
        const int64_t sample = at / c.out_columns / c.out_rows / c.outputs;
        const int64_t group = output / (c.outputs / c.groups);
        expected[at] = bias ? bias[output] : 0;
        for (int64_t k = 0; k < inputs * kernel; k++) {
            const int64_t channel = group * inputs + k / kernel;
            const int64_t i = row * c.stride_rows - c.pad_rows + k % kernel / c.kernel_columns * c.step_rows;
            const int64_t j = column * c.stride_columns - c.pad_columns + k % c.kernel_columns * c.step_columns;
            if (i < 0 || i >= c.rows || j < 0 || j >= c.columns) continue;
            const int64_t from = ((sample * c.channels + channel) * c.rows + i) * c.columns + j;
            const double weight = s.dense[output * inputs * kernel + k];
            expected[at] += weight * x[from];
            gradient[from] += weight * dy[at];
        }
    }
    const int64_t *shape = (const int64_t *)&c;
    secateur_convolution(shape, x, s.starts, s.columns, s.wide, s.values, s.height, bias, 0, threads, y);
    compare("convolution", y, expected, out);
    secateur_convolution_gradient(shape, dy, s.starts, s.columns, s.wide, s.values, s.height, threads, dx);
    compare("convolution gradient", dx, gradient, in);
    free(x), free(bias), free(y), free(dx), free(dy), free(expected), free(gradient);
    release(s);
}

int main(int count, char **arguments) {
    const int rounds = count > 1 ? atoi(arguments[1]) : 100;
    const char *name;
    for (int index = 0; (name = secateur_variant_name(index)); index++) {
        secateur_use_variant(name);
        for (int round = 0; round < rounds && !wrong; round++) {
            try_linear(1 + round % 2);
            try_convolution(1 + round % 2);
        }
        printf("%s: %s\n", name, wrong ? "wrong" : "right");
    }
    return wrong;
}
