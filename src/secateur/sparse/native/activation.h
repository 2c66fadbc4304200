/* Activations of whole vectors; NaN goes through each of them, as it does in torch. */
#ifndef SECATEUR_ACTIVATION_H
#define SECATEUR_ACTIVATION_H

#include "vector.h"

enum Activation { NONE, RELU, RELU6, HARDSWISH, SILU, GELU, GELU_TANH };

/* Cephes' expf: 2^n times a polynomial on [-ln(2)/2, ln(2)/2]; relative error below 2e-7. */
INLINE Vector exponential(Vector x) {
    const Vector least = broadcast(-87.0f), most = broadcast(88.0f);
    const Vector shifter = broadcast(12582912.0f); /* 1.5 * 2^23: adding it rounds to integers */
    Vector inside = choose(x < least, least, choose(x > most, most, x));
    Vector shifted = inside * 1.44269504f + shifter;
    Vector whole = shifted - shifter;
    Vector rest = inside - whole * 0.693359375f + whole * 2.12194440e-4f;
    Vector sum = rest * 1.9875691500e-4f + 1.3981999507e-3f;
    sum = sum * rest + 8.3334519073e-3f;
    sum = sum * rest + 4.1665795894e-2f;
    sum = sum * rest + 1.6666665459e-1f;
    sum = sum * rest + 5.0000001201e-1f;
    sum = sum * rest * rest + rest + 1.0f;
    Bits exponent = ((Bits)shifted - (Bits)shifter + 127u) << 23;
    Vector result = sum * (Vector)exponent;
    result = choose(x < least, broadcast(0.0f), result);
    return choose(x > most, broadcast(__builtin_inff()), result);
}

/* Abramowitz and Stegun 7.1.26; absolute error below 2e-7. */
INLINE Vector error_function(Vector x) {
    Vector size = choose(x < 0.0f, -x, x);
    Vector t = 1.0f / (1.0f + 0.3275911f * size);
    Vector sum = t * 1.061405429f - 1.453152027f;
    sum = sum * t + 1.421413741f;
    sum = sum * t - 0.284496736f;
    sum = sum * t + 0.254829592f;
    Vector result = 1.0f - sum * t * exponential(-size * size);
    return choose(x < 0.0f, -result, result);
}

INLINE Vector clamp(Vector x, Vector low, Vector high) {
    x = choose(x < low, low, x);
    return choose(x > high, high, x);
}

INLINE Vector activate(Vector x, int activation) {
    switch (activation) {
    case RELU:
        return choose(x < 0.0f, broadcast(0.0f), x);
    case RELU6:
        return clamp(x, broadcast(0.0f), broadcast(6.0f));
    case HARDSWISH:
        return x * clamp(x + 3.0f, broadcast(0.0f), broadcast(6.0f)) / 6.0f;
    case SILU:
        return x / (1.0f + exponential(-x));
    case GELU:
        return 0.5f * x * (1.0f + error_function(x * 0.70710678f));
    case GELU_TANH: {
        Vector inner = 0.79788456f * (x + 0.044715f * x * x * x);
        return x - x / (1.0f + exponential(2.0f * inner));
    }
    default:
        return x;
    }
}

#endif
