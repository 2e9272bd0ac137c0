#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_bfloat16 : require
#pragma hlx fast
// The matrix product by 16-bit floats of 8 bits of exponent and 8 of significand: C = A * B + bias.

#define FACTOR bfloat16_t

// By hand: how the language's own conversion rounds is up to the device.
#include "pack.glsl"

uvec4 rounded(vec4 low, vec4 high) {
    return pairs(low, high);
}

#include "gemm_matrix.glsl"
