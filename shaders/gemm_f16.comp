#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#pragma hlx fast
// The matrix product by 16-bit floats of 5 bits of exponent and 11 of significand: C = A * B + bias.

#define FACTOR float16_t

uvec4 rounded(vec4 low, vec4 high) {
    return uvec4(
        packHalf2x16(low.xy), packHalf2x16(low.zw), packHalf2x16(high.xy), packHalf2x16(high.zw));
}

#include "gemm_matrix.glsl"
