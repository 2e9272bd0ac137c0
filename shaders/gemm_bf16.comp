#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_bfloat16 : require
#extension GL_EXT_shader_explicit_arithmetic_types_int16 : require
#pragma hlx fast
// The matrix product by 16-bit floats of 8 bits of exponent and 8 of significand: C = A * B + bias.

#define FACTOR bfloat16_t

uint rounded(vec2 x) {
    return pack32(bfloat16BitsToUintEXT(bf16vec2(x)));
}

#include "gemm_matrix.glsl"
